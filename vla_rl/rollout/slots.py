"""Many episodes on few simulators: the environment side of a rollout, without torch.

One simulator per task serves any number of *virtual slots*: a slot is a snapshot that is restored,
advanced by H actions, rendered once and stored again. Equal specs (a group) are reset once and
restored for every member.

A simulator that cannot be restored (``SimEnv.restorable``) serves one slot at a time. Then there is
one simulator per slot, which is reused by the next call, and each member of a group is started from
the seed. Memory grows with the number of episodes in progress (``--rollout.max-in-flight``).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vla_rl import plugins
from vla_rl.sim import Expert, Outcome, SimEnv
from vla_rl.types import (
    Arrays,
    Bools,
    Demonstration,
    EpisodeSpec,
    Floats,
    Observation,
    Spaces,
    Task,
    Timing,
)


@dataclass(frozen=True)
class StepResult(Arrays):
    """Result of executing one chunk in each of B slots.

    Attributes:
        obs: ``[B]`` the next observation; undefined where an episode is done and its last state was
            not observed.
        reward: ``[B]`` environment reward summed over the executed actions.
        last_reward: ``[B]`` environment reward of the last executed action.
        executed: ``[B, H]`` bool.
        progress: ``[B]`` in [0, 1].
        success: ``[B]`` bool.
        completed: ``[B]`` int64, bit i is set once subgoal i has been completed.
        truncated: ``[B]`` bool.
        done: ``[B]`` bool, terminated or truncated.
    """

    obs: Observation
    reward: Floats
    last_reward: Floats
    executed: Bools
    progress: Floats
    success: Bools
    completed: NDArray[np.int64]
    truncated: Bools
    done: Bools

    @classmethod
    def zeros(cls, count: int, horizon: int, spaces: Spaces) -> StepResult:
        """An empty result for ``count`` slots, to be filled row by row."""
        size, views = spaces.image_size, len(spaces.views)
        return cls(
            obs=Observation(
                images=np.zeros((count, views, size, size, 3), np.uint8),
                state=np.zeros((count, spaces.state_dim), np.float32),
            ),
            reward=np.zeros(count, np.float32),
            last_reward=np.zeros(count, np.float32),
            executed=np.zeros((count, horizon), bool),
            progress=np.zeros(count, np.float32),
            success=np.zeros(count, bool),
            completed=np.zeros(count, np.int64),
            truncated=np.zeros(count, bool),
            done=np.zeros(count, bool),
        )


class EpisodeFailed(RuntimeError):
    """A simulator raised while an episode was played; ``__cause__`` is the original error.

    Attributes:
        spec: The episode.
    """

    def __init__(self, spec: EpisodeSpec, error: Exception) -> None:
        super().__init__(f"{spec} failed with {type(error).__name__}: {error}")
        self.spec = spec


@contextmanager
def _playing(spec: EpisodeSpec) -> Iterator[None]:
    """Add the episode to any error that is raised inside."""
    try:
        yield
    except Exception as error:
        raise EpisodeFailed(spec, error) from error


@dataclass
class _Slot:
    """An episode in progress; without a snapshot it has its own simulator."""

    spec: EpisodeSpec
    env: SimEnv
    snapshot: object | None


LastLook = Literal["none", "truncated", "all"]


@dataclass
class SlotPool:
    """Simulators of one suite, and the virtual slots that they serve.

    Attributes:
        suite: Plug-in name of the suite.
        settings: The suite's ``Settings``.
        last_look: Episodes whose last state is observed: none, those that the time limit cut (for a
            critic), or all.
    """

    suite: str
    settings: object
    last_look: LastLook = "none"
    timing: Timing = field(default_factory=Timing)
    _envs: dict[Task, list[SimEnv]] = field(default_factory=dict)
    _slots: list[_Slot] = field(default_factory=list)

    def begin(self, specs: Sequence[EpisodeSpec]) -> tuple[Observation, Floats]:
        """Open one slot per spec; return their first observations ``[B]`` and progress ``[B]``.

        Raises:
            EpisodeFailed: If a simulator raised.
        """
        starts: dict[EpisodeSpec, tuple[object | None, Observation, float]] = {}
        busy: Counter[Task] = Counter()
        looks, progress = [], []
        self._slots = []
        for spec in specs:
            with _playing(spec):
                env = self._env(spec.task, busy[spec.task])
                if not env.restorable:
                    busy[spec.task] += 1
                if not env.restorable or spec not in starts:
                    starts[spec] = self._start(env, spec.seed)
            snapshot, look, at_start = starts[spec]
            self._slots.append(_Slot(spec, env, snapshot))
            looks.append(look)
            progress.append(at_start)
        return Observation.stack(looks), np.array(progress, np.float32)

    def execute(self, rows: Sequence[int], actions: Floats) -> StepResult:
        """Execute one ``[H, A]`` chunk in each of the slots ``rows``; ``actions [B, H, A]``.

        Raises:
            EpisodeFailed: If a simulator raised.
        """
        spaces = self._slots[rows[0]].env.spaces
        result = StepResult.zeros(len(rows), actions.shape[1], spaces)
        for index, (row, chunk) in enumerate(zip(rows, actions, strict=True)):
            with _playing(self._slots[row].spec):
                self._execute_one(self._slots[row], chunk, result, index)
        return result

    def record(self, spec: EpisodeSpec) -> Demonstration:
        """Let the suite's scripted expert play one episode, observing before every action."""
        expert = plugins.load("envs", self.suite).expert(spec.task)
        with _playing(spec):
            return record(self._env(spec.task), expert, spec)

    def retrace(self, spec: EpisodeSpec, actions: Floats) -> Demonstration:
        """Replay the ``[L, A]`` actions of a policy's episode, observing before every action.

        In a suite that does not repeat episodes exactly, the episode may not end with the last one.
        """
        ahead = iter(actions)
        with _playing(spec):
            env = self._env(spec.task)
            return record(env, lambda env: next(ahead), spec, "policy", most=len(actions))

    def close(self) -> None:
        """Close every simulator."""
        for envs in self._envs.values():
            for env in envs:
                env.close()
        self._envs.clear()
        self._slots.clear()

    def _env(self, task: Task, number: int = 0) -> SimEnv:
        """The simulator of a task, or number ``number`` of those that cannot be shared."""
        made = self._envs.setdefault(task, [])
        if number == len(made):
            made.append(plugins.load("envs", self.suite).make(task, self.settings))
        return made[number]

    def _start(self, env: SimEnv, seed: int) -> tuple[object | None, Observation, float]:
        began = time.perf_counter()
        progress = env.start(seed)
        snapshot = env.snapshot() if env.restorable else None
        started = time.perf_counter()
        look = env.observe()
        self.timing.add("physics", started - began)
        self.timing.add("render", time.perf_counter() - started)
        return snapshot, look, progress

    def _execute_one(self, slot: _Slot, chunk: Floats, out: StepResult, index: int) -> None:
        env = slot.env
        began = time.perf_counter()
        if env.restorable:
            env.restore(slot.snapshot)
        for step, action in enumerate(chunk):
            outcome = env.advance(action)
            out.executed[index, step] = True
            out.reward[index] += outcome.reward
            if outcome.terminated or outcome.truncated:
                break
        out.last_reward[index] = outcome.reward
        out.progress[index] = outcome.progress
        out.success[index] = outcome.success
        out.completed[index] = outcome.completed
        out.truncated[index] = outcome.truncated
        out.done[index] = outcome.terminated or outcome.truncated
        if env.restorable and not out.done[index]:
            slot.snapshot = env.snapshot()
        moved = time.perf_counter()
        self.timing.add("physics", moved - began)
        cut = outcome.truncated and self.last_look == "truncated"
        if not out.done[index] or cut or self.last_look == "all":
            look = env.observe()
            out.obs.images[index] = look.images
            out.obs.state[index] = look.state
        self.timing.add("render", time.perf_counter() - moved)


def record(
    env: SimEnv,
    expert: Expert,
    spec: EpisodeSpec,
    source: str = "expert",
    most: int | None = None,
) -> Demonstration:
    """Let an expert play one episode, observing before every action.

    Args:
        env: A simulator of the spec's task.
        expert: Chooses the actions.
        spec: The start.
        source: Name of the expert, for the demonstration.
        most: Largest number of actions, in case the simulator does not end the episode.
    """
    env.start(spec.seed)
    looks: list[Observation] = []
    actions: list[Floats] = []
    rewards: list[float] = []
    outcome = Outcome(0.0, False, False, False, 0.0)
    while not (outcome.terminated or outcome.truncated) and len(actions) != most:
        looks.append(env.observe())
        actions.append(np.clip(expert(env), -1.0, 1.0).astype(np.float32))
        outcome = env.advance(actions[-1])
        rewards.append(outcome.reward)
    return Demonstration(
        spec=spec,
        obs=Observation.stack(looks),
        actions=np.stack(actions),
        reward=np.array(rewards, np.float32),
        success=outcome.success,
        source=source,
    )


def replay(suite: str, settings: object, spec: EpisodeSpec, actions: Floats) -> list[np.ndarray]:
    """Play ``[L, A]`` actions from a start and return one frame per step, ``[h, w, 3]`` uint8.

    Because a spec determines everything, an episode can be filmed after it was played, with any
    camera and quality.
    """
    env: SimEnv = plugins.load("envs", suite).make(spec.task, settings)
    env.start(spec.seed)
    frames = [env.observe().images[0]]
    for action in actions:
        outcome = env.advance(action)
        frames.append(env.observe().images[0])
        if outcome.terminated or outcome.truncated:
            break
    env.close()
    return frames


def with_horizon(task: Task, max_steps: int | None) -> Task:
    """Copy of the task with another horizon in environment steps (None keeps its own)."""
    return task if max_steps is None else replace(task, max_steps=max_steps)
