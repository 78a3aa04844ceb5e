"""Reinforcement learning: draw starts, play groups, keep those that teach, update, repeat."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from vla_rl.collector import Collector, OnEpisode, episode_keys
from vla_rl.learner import Learner
from vla_rl.rollout import PlaySettings
from vla_rl.types import Curriculum, Group, Reward, RolloutBatch, Timing, with_reward


class Algorithm(Protocol):
    """What the loop needs of an algorithm (a dataclass in ``vla_rl/algorithms`` or a user's own).

    Attributes:
        group_size: Rollouts from each start.
        uses_critic: Whether episodes cut by the time limit need a bootstrap value.
        uses_reference: Whether the learner must hold the policy that training started from.
        dynamic_sampling: Whether starts are drawn again in place of dropped groups.
        trains: Parameter groups of the policy that the algorithm trains.
    """

    @property
    def group_size(self) -> int:
        """See above."""

    @property
    def uses_critic(self) -> bool:
        """See above."""

    @property
    def uses_reference(self) -> bool:
        """See above."""

    @property
    def dynamic_sampling(self) -> bool:
        """See above."""

    @property
    def trains(self) -> tuple[str, ...]:
        """See above."""

    def keep(self, group: Group) -> bool:
        """Whether a group can teach something; the others are dropped."""

    def update(
        self, learner: Learner, batch: RolloutBatch, rng: np.random.Generator
    ) -> dict[str, float]:
        """Improve the policy on one batch; returns what to log."""

    def state_dict(self) -> dict[str, object]:
        """JSON-able state for resuming."""

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take over a state."""


class Keeper(Protocol):
    """Keeps episodes of a run, for instance those that were solved."""

    def keep(self, groups: Sequence[Group], iteration: int) -> None:
        """Look at everything that was played in an iteration."""

    def metrics(self) -> dict[str, float]:
        """What to log, by names that begin with ``keeper/``."""

    def state_dict(self) -> dict[str, object]:
        """JSON-able state for resuming."""

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take over a state."""


@dataclass(frozen=True)
class TrainConfig:
    """The reinforcement-learning loop."""

    iterations: int = 30
    """Updates to make."""
    minutes: float = 0.0
    """Stop after this many minutes of training, 0 for no limit. Checked between iterations."""
    env_steps: int = 0
    """Stop after this many environment steps, 0 for no limit. Checked between iterations."""
    episodes_per_iteration: int = 96
    """Episodes to learn from in one update, in groups of the algorithm's size."""
    max_tries: int = 2
    """How often an algorithm with dynamic sampling may draw groups in one iteration, to replace
    those that were dropped."""
    checkpoint_every: int = 5
    """Iterations between checkpoints; the last one is always saved."""

    def __post_init__(self) -> None:
        for name in ("iterations", "episodes_per_iteration", "max_tries", "checkpoint_every"):
            if vars(self)[name] < 1:
                raise ValueError(f"train {name} must be at least 1, got {vars(self)[name]}")
        for name in ("minutes", "env_steps"):
            if vars(self)[name] < 0:
                raise ValueError(f"train {name} must not be negative, got {vars(self)[name]}")


class Draw(NamedTuple):
    """Groups of one iteration.

    Attributes:
        kept: Groups to learn from.
        played: Every group that was played.
        seconds: Wall time by part.
    """

    kept: list[Group]
    played: list[Group]
    seconds: dict[str, float]


@dataclass
class Loop:
    """The state of a run, and one iteration of it.

    Attributes:
        seed: Of noise and minibatches.
        iteration: Iterations done.
        env_steps: Environment steps taken so far.
    """

    collector: Collector
    learner: Learner
    algorithm: Algorithm
    curriculum: Curriculum
    rewards: Sequence[Reward]
    config: TrainConfig
    seed: int
    iteration: int = 0
    env_steps: int = 0
    episodes: int = 0
    seconds: float = 0.0
    on_episode: OnEpisode = field(default=lambda task, share: None)
    keeper: Keeper | None = None

    def __post_init__(self) -> None:
        if self.algorithm.group_size > self.config.episodes_per_iteration:
            raise ValueError(
                f"train episodes_per_iteration {self.config.episodes_per_iteration} is less than "
                f"one group of {self.algorithm.group_size} rollouts"
            )
        if self.algorithm.uses_reference and self.learner.reference is None:
            raise ValueError(
                "the algorithm needs a reference policy for its KL, and none was given"
            )

    def step(self) -> dict[str, float]:
        """One iteration: collect, update, and return what to log."""
        began = time.perf_counter()
        draw = self._draw()
        if self.keeper is not None:
            self.keeper.keep(draw.played, self.iteration)
        collected = time.perf_counter()
        metrics: dict[str, float] = {}
        if draw.kept:
            rng = np.random.default_rng([self.seed, 2, self.iteration])
            batch = RolloutBatch.pack(draw.kept)
            metrics = self.algorithm.update(self.learner, batch, rng)
        self.iteration += 1
        ended = time.perf_counter()
        self.seconds += ended - began
        parts = {**draw.seconds, "update": ended - collected}
        return {**metrics, **self._describe(draw), **_shares(parts, ended - began)}

    def _draw(self) -> Draw:
        """Play groups; with dynamic sampling until enough are kept or the tries are used up."""
        ranks, size = self.learner.ranks, self.algorithm.group_size
        wanted = self.config.episodes_per_iteration // size
        tries = self.config.max_tries if self.algorithm.dynamic_sampling else 1
        kept: list[Group] = []
        played: list[Group] = []
        timing = Timing()
        for attempt in range(tries):
            specs = self.curriculum.sample(wanted - len(kept))
            keys = episode_keys(self.seed, self.iteration, attempt, count=len(specs) * size)
            # A group stays on one rank; all ranks then see every group, in the order of one rank.
            mine = ranks.share(range(len(specs)))
            rollout = self.collector.collect(
                self.learner.policy,
                [specs[i] for i in mine for _ in range(size)],
                [keys[i * size + member] for i in mine for member in range(size)],
                PlaySettings(final_value=self.algorithm.uses_critic, version=self.learner.version),
                self.on_episode,
            )
            for part, seconds in rollout.seconds.items():
                timing.add(part, seconds)
            scored = [with_reward(t, self.rewards) for t in rollout.trajectories]
            groups = ranks.gather([scored[i : i + size] for i in range(0, len(scored), size)])
            self.curriculum.update(groups)
            played += groups
            kept += [group for group in groups if self.algorithm.keep(group)]
            if len(kept) >= wanted:
                break
        return Draw(kept, played, timing.seconds)

    def _describe(self, draw: Draw) -> dict[str, float]:
        episodes = [t for group in draw.played for t in group]
        self.env_steps += sum(t.steps for t in episodes)
        self.episodes += len(episodes)
        by_task = defaultdict(list)
        for t in episodes:
            by_task[t.spec.task.id].append(t)
        # A sequence has no single success: what is told of it is the share that was completed.
        kinds = {
            task: "completed" if of_task[0].spec.task.subgoals else "success"
            for task, of_task in by_task.items()
        }
        rates = {
            f"train/{kinds[task]}/{task}": float(np.mean([t.share_done for t in of_task]))
            for task, of_task in by_task.items()
        }
        overall = "completed" if "completed" in kinds.values() else "success"
        return {
            **rates,
            f"train/{overall}": float(np.mean([t.share_done for t in episodes])),
            "train/episode_steps": float(np.mean([t.steps for t in episodes])),
            "train/env_reward": float(np.mean([t.env_reward.sum() for t in episodes])),
            "train/groups_played": len(draw.played),
            "train/groups_kept": len(draw.kept),
            "train/frac_groups_dropped": 1 - len(draw.kept) / len(draw.played),
            "train/frac_env_steps_dropped": 1 - _env_steps(draw.kept) / _env_steps(draw.played),
            "train/env_steps": self.env_steps,
            "train/episodes": self.episodes,
            "train/workers_lost": sum(self.learner.ranks.everything([self.collector.lost])),
            "train/episodes_retried": sum(self.learner.ranks.everything([self.collector.retried])),
        }

    def state_dict(self) -> dict[str, object]:
        """JSON-able state besides the learner's tensors."""
        return {
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            "episodes": self.episodes,
            "seconds": self.seconds,
            "version": self.learner.version,
            "steps": self.learner.steps,
            "algorithm": self.algorithm.state_dict(),
            "curriculum": self.curriculum.state_dict(),
            "keeper": {} if self.keeper is None else self.keeper.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take over a state written by :meth:`state_dict`."""
        for name in ("iteration", "env_steps", "episodes", "seconds"):
            setattr(self, name, state[name])
        self.learner.version = int(str(state["version"]))
        self.learner.steps = int(str(state["steps"]))
        self.algorithm.load_state_dict(state["algorithm"])  # type: ignore[arg-type]
        self.curriculum.load_state_dict(state["curriculum"])  # type: ignore[arg-type]
        if self.keeper is not None:
            self.keeper.load_state_dict(state["keeper"])  # type: ignore[arg-type]


OnIteration = Callable[[Loop, dict[str, float]], None]


def run(loop: Loop, on_iteration: OnIteration, stopped: Callable[[], bool]) -> None:
    """Iterate until the configured iterations, minutes or steps are done, or until ``stopped()``.

    It is asked between iterations only, so the state that is left is that of a whole iteration.
    """
    limit = 60 * loop.config.minutes or float("inf")
    most_steps = loop.config.env_steps or float("inf")
    while loop.iteration < loop.config.iterations and loop.env_steps < most_steps:
        # Clocks and signals differ between ranks.
        if loop.learner.ranks.anyone(loop.seconds >= limit or stopped()):
            break
        on_iteration(loop, loop.step())


def _env_steps(groups: Sequence[Group]) -> int:
    return sum(t.steps for group in groups for t in group)


def _shares(parts: Mapping[str, float], total: float) -> dict[str, float]:
    """Seconds by part under ``time/``, and their total."""
    return {**{f"time/{part}": seconds for part, seconds in parts.items()}, "time/total": total}
