"""The nouns of the framework: plain NumPy data.

Axis legend, used everywhere: **N** episodes, **P** groups, **G** members of a group, **T**
decisions (policy calls), **H** low-level actions in a chunk, **A** action dimensions, **K**
log-prob units of one decision (a multiple of H; ``H * A`` for a factorised head), **V** camera
views, **S** proprioception, **F** frozen backbone features, **B** any batch.

This module imports NumPy only, so that environment workers stay light.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Task:
    """A task of a suite, with its instruction and horizon.

    Attributes:
        suite: Name of its suite (a module in ``envs/`` or a dotted path).
        id: Name of the task inside its suite, for instance ``"drawer-open-v3"``.
        instruction: The sentence that the policy is given; unique within a suite except variants.
        max_steps: Horizon in environment steps; an episode that reaches it is *truncated*.
        subgoals: Names of the parts of a sequence, all of which must be completed; empty for a task
            without parts.
    """

    suite: str
    id: str
    instruction: str
    max_steps: int
    subgoals: tuple[str, ...] = ()


@dataclass(frozen=True)
class EpisodeSpec:
    """A start: a task and a seed, which fully determine the initial state.

    Episodes with equal specs form one *group*.
    """

    task: Task
    seed: int

    def __str__(self) -> str:
        return f"{self.task.suite}/{self.task.id}#{self.seed}"


# The ranges are disjoint: no evaluation uses a start of training, and what was chosen on validation
# starts is reported on others. The first seed of a range must never change: recorded demonstrations
# and results refer to seeds.
SEED_RANGES: dict[str, range] = {
    "demo": range(0, 100_000),
    "train": range(100_000, 1_000_000_000),
    "eval": range(1_000_000_000, 1_900_000_000),
    "validation": range(1_900_000_000, 2_000_000_000),
}


def seed_for(use: str, index: int) -> int:
    """The ``index``-th seed of a use (``"demo"``, ``"train"``, ``"eval"`` or ``"validation"``).

    Raises:
        ValueError: If the use is unknown or the index is outside its range.
    """
    if use not in SEED_RANGES:
        raise ValueError(f"unknown seed use {use!r}; allowed: {', '.join(SEED_RANGES)}")
    seeds = SEED_RANGES[use]
    if not 0 <= index < len(seeds):
        raise ValueError(f"{use} seed index {index} is outside 0..{len(seeds) - 1}")
    return seeds[index]


ArraysT = TypeVar("ArraysT", bound="Arrays")


class Arrays:
    """A dataclass of arrays with common leading axes, which are indexed and stacked together."""

    def __getitem__(self: ArraysT, index: object) -> ArraysT:
        return type(self)(
            **{f.name: getattr(self, f.name)[index] for f in fields(cast("type", self))}
        )

    @classmethod
    def stack(cls: type[ArraysT], items: Sequence[ArraysT]) -> ArraysT:
        """Stack items along a new first axis."""
        return cls._join(np.stack, items)

    @classmethod
    def concatenate(cls: type[ArraysT], items: Sequence[ArraysT]) -> ArraysT:
        """Join items along their first axis."""
        return cls._join(np.concatenate, items)

    @classmethod
    def _join(
        cls: type[ArraysT], join: Callable[[list[Array]], Array], items: Sequence[ArraysT]
    ) -> ArraysT:
        names = [f.name for f in fields(cast("type", cls))]
        return cls(**{name: join([getattr(item, name) for item in items]) for name in names})


@dataclass(frozen=True)
class Observation(Arrays):
    """What a policy observes, with any leading axes.

    Attributes:
        images: ``[*, V, h, w, 3]`` uint8, upright RGB. ``V`` may be 0 for state-only suites.
        state: ``[*, S]`` float32 proprioception in the suite's units.
    """

    images: NDArray[np.uint8]
    state: Floats


@dataclass(frozen=True)
class ActionChunk(Arrays):
    """A decision of a policy: H low-level actions and their log-probabilities.

    Attributes:
        actions: ``[*, H, A]`` float32 in [-1, 1]; derived from ``raw``, only for the environment.
        raw: ``[*, R]`` float32; what was *sampled*: reals before clipping or token ids (R = K), or
            a chain of denoising steps.
        logprob: ``[*, K]`` float32 log-density or log-probability of the sample.
        value: ``[*]`` float32 critic estimate; zero where the policy has no critic.
        features: ``[*, F]`` frozen backbone features of the observation; ``F`` is 0 when the
            backbone is being trained, so that nothing can be cached.
    """

    actions: Floats
    raw: Floats
    logprob: Floats
    value: Floats
    features: Array


@dataclass(frozen=True)
class Trajectory:
    """One episode.

    Attributes:
        spec: The start that it was played from.
        obs: ``[T]`` observations at decisions. Images are empty (``V = 0``) when they were not kept
            because ``chunk.features`` replaces them.
        chunk: ``[T]`` decisions.
        executed: ``[T, H]`` bool; an episode may end inside a chunk.
        env_reward: ``[T]`` float32, the environment's own (dense) reward summed over the chunk.
        reward: ``[T]`` float32, what algorithms learn from; computed by the run's rewards.
        progress: ``[T + 1]`` float32 in [0, 1], at every decision and at the end.
        completed: ``[T + 1]`` int64, bit i is set once subgoal i of the task has been completed.
        final_value: The critic's output for the last observation; 0 unless the time limit ended it.
        success: Whether the task was solved at any step.
        truncated: Whether the time limit ended it (never merged with termination).
        policy_version: Version of the weights that acted.
        last_env_reward: The environment's own reward of the last step alone.
        bootstrapped: Whether ``final_value`` is the value after the end; decided together with the
            rewards (:mod:`vla_rl.episode_end`).
        final_obs: The observation after the last step, without leading axes; None unless it was
            requested.
        here: Whether this process played it. An episode that another one played (see
            :meth:`from_afar`) has no images and features, and not what was sampled.
    """

    spec: EpisodeSpec
    obs: Observation
    chunk: ActionChunk
    executed: Bools
    env_reward: Floats
    reward: Floats
    progress: Floats
    completed: NDArray[np.int64]
    final_value: float
    success: bool
    truncated: bool
    policy_version: int
    last_env_reward: float = 0.0
    bootstrapped: bool = False
    final_obs: Observation | None = None
    here: bool = True

    def from_afar(self) -> Trajectory:
        """What other processes get of it: all but images, features and samples."""
        return replace(
            self,
            obs=replace(self.obs, images=self.obs.images[:, :0]),
            chunk=replace(
                self.chunk, raw=self.chunk.raw[:, :0], features=self.chunk.features[:, :0]
            ),
            final_obs=None,
            here=False,
        )

    @property
    def decisions(self) -> int:
        """Number of policy calls, T."""
        return len(self.env_reward)

    @property
    def steps(self) -> int:
        """Number of environment steps that were executed."""
        return int(self.executed.sum())

    @property
    def subgoals_done(self) -> tuple[str, ...]:
        """The subgoals of the task that were completed, in the task's order."""
        bits = int(self.completed[-1])
        return tuple(name for i, name in enumerate(self.spec.task.subgoals) if bits >> i & 1)

    @property
    def share_done(self) -> float:
        """Completed share of the task's subgoals; for a task without any, success as 0 or 1."""
        parts = len(self.spec.task.subgoals)
        return len(self.subgoals_done) / parts if parts else float(self.success)

    @property
    def total_reward(self) -> float:
        """Undiscounted sum of ``reward``."""
        return float(self.reward.sum())


Group = list[Trajectory]
"""Trajectories of equal ``spec``."""


@dataclass(frozen=True)
class RolloutBatch:
    """Groups packed for an update; one row is one episode, groups are adjacent rows.

    Attributes:
        obs: ``[N, T]`` padded observations (images empty when features replace them).
        chunk: ``[N, T]`` padded decisions.
        mask: ``[N, T, K]`` bool, true for units whose action was executed.
        valid: ``[N, T]`` bool, true for decisions that were made.
        reward: ``[N, T]`` float32.
        final_value: ``[N]`` float32 critic's output for the last observation.
        bootstrapped: ``[N]`` bool, whether ``final_value`` is the value after the end.
        success: ``[N]`` bool.
        group: ``[N]`` int, index of the row's group.
        horizon: H; the K units can be reshaped to ``[H, K // H]``.
        episodes: The N trajectories that were packed.
        here: ``[N]`` bool, which of them this process played. The images, features and samples of
            the others are zeros.
    """

    obs: Observation
    chunk: ActionChunk
    mask: Bools
    valid: Bools
    reward: Floats
    final_value: Floats
    bootstrapped: Bools
    success: Bools
    group: NDArray[np.int64]
    horizon: int
    episodes: tuple[Trajectory, ...]
    here: Bools

    @property
    def instruction(self) -> tuple[str, ...]:
        """The instruction of each of the N episodes."""
        return tuple(t.spec.task.instruction for t in self.episodes)

    def only(self, rows: Bools) -> RolloutBatch:
        """The same batch, with every unit of the other episodes masked.

        Args:
            rows: ``[N]`` true for the episodes to keep.
        """
        return replace(self, mask=self.mask & rows[:, None, None], valid=self.valid & rows[:, None])

    @classmethod
    def pack(cls, groups: Sequence[Group]) -> RolloutBatch:
        """Pad trajectories to the longest one.

        Raises:
            ValueError: If there is no trajectory, or a group mixes specs.
        """
        for members in groups:
            if len({t.spec for t in members}) != 1:
                raise ValueError(
                    f"a group must share one spec, got {sorted({str(t.spec) for t in members})}"
                )
        rows = [t for members in groups for t in members]
        if not rows:
            raise ValueError("cannot pack an empty list of groups")
        longest = max(t.decisions for t in rows)
        horizon = rows[0].executed.shape[1]
        units = rows[0].chunk.logprob.shape[1] // horizon

        pattern = next((t for t in rows if t.here), rows[0])

        def padded(pick: Callable[[Trajectory], Array]) -> Array:
            first = pick(pattern)
            # Zeros that are never written to take no memory: those of images played elsewhere.
            out = np.zeros((len(rows), longest, *first.shape[1:]), first.dtype)
            for row, trajectory in enumerate(rows):
                part = pick(trajectory)
                if part.size:
                    out[row, : trajectory.decisions] = part
            return out

        executed = cast(Bools, padded(lambda t: t.executed))
        chunk: dict[str, Any] = {
            name: padded(lambda t, name=name: vars(t.chunk)[name])  # type: ignore[misc]
            for name in (f.name for f in fields(ActionChunk))
        }
        return cls(
            obs=Observation(
                images=cast("NDArray[np.uint8]", padded(lambda t: t.obs.images)),
                state=cast(Floats, padded(lambda t: t.obs.state)),
            ),
            chunk=ActionChunk(**chunk),
            mask=np.repeat(executed, units, axis=2),
            valid=np.asarray(executed.any(axis=2)),
            reward=cast(Floats, padded(lambda t: t.reward)),
            final_value=np.array([t.final_value for t in rows], np.float32),
            bootstrapped=np.array([t.bootstrapped for t in rows], bool),
            success=np.array([t.success for t in rows], bool),
            group=np.repeat(np.arange(len(groups)), [len(g) for g in groups]),
            horizon=horizon,
            episodes=tuple(rows),
            here=np.array([t.here for t in rows], bool),
        )

    def __len__(self) -> int:
        return len(self.group)


@dataclass(frozen=True)
class Demonstration:
    """Every environment step of one recorded episode.

    Attributes:
        spec: The start that it was played from.
        obs: ``[L]`` observations, one before each action.
        actions: ``[L, A]`` float32 in [-1, 1].
        reward: ``[L]`` float32, the environment's own reward.
        success: Whether the task was solved.
        source: Who acted: ``"expert"``, ``"policy"``, ...
    """

    spec: EpisodeSpec
    obs: Observation
    actions: Floats
    reward: Floats
    success: bool
    source: str = "expert"

    def __len__(self) -> int:
        return len(self.actions)


# ------------------------------------------------------------------------------------ plug-ins


@dataclass(frozen=True)
class EvalProtocol:
    """A named way to evaluate; two results are comparable only if their protocols are equal.

    Attributes:
        name: For instance ``"metaworld-official"``.
        episodes_per_task: Number of initial states per task, each played exactly once.
        max_steps: Horizon in environment steps.
        settings: Suite settings that the protocol requires (by field name), for instance cameras.
        starts: A key of ``SEED_RANGES``: ``"eval"`` for results to report, ``"validation"`` for
            choosing settings or a policy.
    """

    name: str
    episodes_per_task: int
    max_steps: int
    settings: Mapping[str, object] = field(default_factory=dict)
    starts: str = "eval"


@dataclass(frozen=True)
class Check:
    """One finding of ``vla-rl doctor`` or of a suite's ``diagnose``.

    Attributes:
        name: What was checked.
        ok: Whether it is as it should be.
        found: What was found.
        advice: How to fix it, if it is not.
    """

    name: str
    ok: bool
    found: str
    advice: str = ""


class DenseReward(NamedTuple):
    """How a suite's own reward is scaled, and what a solved step is worth.

    Attributes:
        scale: Factor on the reward.
        solved_step: The suite's own reward for a step in which the task is solved. A solved episode
            is credited with it for every step up to its horizon. None takes the reward of the
            episode's last step; 0 is for rewards that are paid once.
    """

    scale: float = 1.0
    solved_step: float | None = None


@dataclass(frozen=True)
class Spaces:
    """The shapes of observations and actions that a policy shares with a suite.

    Attributes:
        views: Names of the V camera views, in order.
        image_size: Height and width in pixels of every view.
        state_dim: Numbers of proprioception, S.
        action_dim: Action dimensions, A.
    """

    views: tuple[str, ...]
    image_size: int
    state_dim: int
    action_dim: int


@dataclass
class Timing:
    """Seconds of wall time by part, summed over workers; the logged value is their mean."""

    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, part: str, seconds: float) -> None:
        """Add seconds to a part."""
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds
