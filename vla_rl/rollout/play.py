"""The episode loop: from specs and a policy to trajectories.

:func:`play` drives a :class:`Simulation`, which is either the slots of this process (each worker
has its own copy of the policy) or slots in worker processes without torch (one batched policy
serves them in two overlapping halves). The two placements differ in nothing else; see
:mod:`vla_rl.rollout.local_collector`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vla_rl.rollout.slots import LastLook, SlotPool, StepResult
from vla_rl.types import (
    ActionChunk,
    Bools,
    EpisodeSpec,
    Floats,
    Observation,
    Timing,
    Trajectory,
)

Rows = NDArray[np.int64]


class Actor(Protocol):
    """The part of a policy that a rollout needs."""

    def act(
        self, obs: Observation, instructions: Sequence[str], keys: NDArray[np.int64] | None
    ) -> ActionChunk:
        """Choose B chunks; ``keys [B, 2]`` seed the noise, None acts greedily."""


class Simulation(Protocol):
    """Episodes in progress, in this process or others: begin, submit chunks, receive results."""

    def begin(self, specs: Sequence[EpisodeSpec]) -> tuple[Observation, Floats]:
        """Begin N episodes; return first observations ``[N]`` and progress ``[N]``."""

    def halves(self, count: int) -> list[Rows]:
        """Divide rows into sets that take turns, so that simulation and policy overlap."""

    def submit(self, rows: Rows, actions: Floats) -> None:
        """Start executing ``[B, H, A]`` in these rows."""

    def receive(self, rows: Rows) -> StepResult:
        """Wait for the results of the rows that were submitted."""


@dataclass(frozen=True)
class PlaySettings:
    """How episodes are played.

    Attributes:
        greedy: Act without exploration noise.
        keep_images: Keep images in the trajectories even if cached features replace them.
        final_value: Observe the last state of episodes that the time limit cut, for a critic.
        final_obs: Observe the last state of every episode, and keep it in the trajectory.
        version: The learner's version, written into every trajectory.
    """

    greedy: bool = False
    keep_images: bool = False
    final_value: bool = False
    final_obs: bool = False
    version: int = 0

    @property
    def last_look(self) -> LastLook:
        """The episodes whose last state must be observed."""
        if self.final_obs:
            return "all"
        return "truncated" if self.final_value else "none"


@dataclass
class LocalSimulation:
    """The slots of this process, executed immediately."""

    pool: SlotPool
    _results: deque[StepResult] = field(default_factory=deque)

    def begin(self, specs: Sequence[EpisodeSpec]) -> tuple[Observation, Floats]:
        """See :class:`Simulation`."""
        return self.pool.begin(specs)

    def halves(self, count: int) -> list[Rows]:
        """A single set, because nothing can overlap in one process."""
        return [np.arange(count)]

    def submit(self, rows: Rows, actions: Floats) -> None:
        """See :class:`Simulation`."""
        self._results.append(self.pool.execute(rows.tolist(), actions))

    def receive(self, rows: Rows) -> StepResult:
        """See :class:`Simulation`."""
        return self._results.popleft()


@dataclass
class _Recorder:
    """Records one episode."""

    spec: EpisodeSpec
    key: int
    settings: PlaySettings
    progress: list[float]
    obs: list[Observation] = field(default_factory=list)
    chunks: list[ActionChunk] = field(default_factory=list)
    executed: list[Bools] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    completed: list[int] = field(default_factory=lambda: [0])

    def decided(self, obs: Observation, chunk: ActionChunk) -> None:
        replaced = chunk.features.size > 0 and not self.settings.keep_images
        self.obs.append(Observation(obs.images[:0], obs.state) if replaced else obs)
        self.chunks.append(chunk)

    def moved(self, result: StepResult) -> None:
        self.reward.append(float(result.reward))
        self.executed.append(result.executed)
        self.progress.append(float(result.progress))
        self.completed.append(int(result.completed))

    def finish(self, result: StepResult, final_value: float) -> Trajectory:
        reward = np.array(self.reward, np.float32)
        return Trajectory(
            spec=self.spec,
            obs=Observation.stack(self.obs),
            chunk=ActionChunk.stack(self.chunks),
            executed=np.stack(self.executed),
            env_reward=reward,
            reward=reward.copy(),
            progress=np.array(self.progress, np.float32),
            completed=np.array(self.completed, np.int64),
            final_value=final_value,
            success=bool(result.success),
            truncated=bool(result.truncated),
            policy_version=self.settings.version,
            last_env_reward=float(result.last_reward),
            final_obs=_copied(result.obs) if self.settings.final_obs else None,
        )


def play(
    actor: Actor,
    simulation: Simulation,
    specs: Sequence[EpisodeSpec],
    keys: Sequence[int],
    settings: PlaySettings,
    timing: Timing,
    on_finished: Callable[[Trajectory], None] = lambda trajectory: None,
    on_round: Callable[[], None] = lambda: None,
) -> list[Trajectory]:
    """Play every spec once and return the trajectories in the order of the specs.

    Args:
        actor: The policy. Its decision for a row depends on that row only, so the result does not
            depend on the rest of the batch (up to float rounding).
        simulation: Runs the episodes.
        specs: N starts; equal ones should be adjacent.
        keys: N noise keys; the same key always gives the same noise.
        settings: Settings of the episodes.
        timing: The time spent in the policy is added to it.
        on_finished: Called with every finished episode.
        on_round: Called after every round of decisions, for instance as a heartbeat.
    """
    obs, progress = simulation.begin(specs)
    recorders = [
        _Recorder(spec, key, settings, [float(p)])
        for spec, key, p in zip(specs, keys, progress, strict=True)
    ]
    finished: dict[int, Trajectory] = {}

    def decide(rows: Rows, seen: Observation) -> Floats:
        began = time.perf_counter()
        acting = [recorders[row] for row in rows]
        draws = np.array([[r.key, len(r.chunks)] for r in acting], np.int64)
        chunk = actor.act(
            seen, [r.spec.task.instruction for r in acting], None if settings.greedy else draws
        )
        for index, recorder in enumerate(acting):
            recorder.decided(seen[index], chunk[index])
        timing.add("policy", time.perf_counter() - began)
        return chunk.actions

    turns = deque(simulation.halves(len(specs)))
    for rows in turns:
        simulation.submit(rows, decide(rows, obs[rows]))
    while turns:
        rows = turns.popleft()
        result = simulation.receive(rows)
        acting = [recorders[row] for row in rows]
        values = _final_values(actor, acting, result) if settings.final_value else {}
        for index, row in enumerate(rows):
            acting[index].moved(result[index])
            if result.done[index]:
                ended = acting[index].finish(result[index], values.get(index, 0.0))
                finished[int(row)] = ended
                on_finished(ended)
        alive = ~result.done
        if alive.any():
            simulation.submit(rows[alive], decide(rows[alive], result.obs[alive]))
            turns.append(rows[alive])
        on_round()
    return [finished[row] for row in range(len(specs))]


def _copied(obs: Observation) -> Observation:
    # A view would keep the observations of the whole batch in memory.
    return Observation(obs.images.copy(), obs.state.copy())


def _final_values(
    actor: Actor, recorders: Sequence[_Recorder], result: StepResult
) -> dict[int, float]:
    """The critic's output for the last observation of the rows that the time limit cut."""
    cut = np.flatnonzero(result.truncated)
    if not len(cut):
        return {}
    words = [recorders[int(index)].spec.task.instruction for index in cut]
    values = actor.act(result.obs[cut], words, None).value
    return {int(index): float(value) for index, value in zip(cut, values, strict=True)}
