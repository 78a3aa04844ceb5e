"""Reinforcement learning: draw starts, play groups, keep those with contrast, update, repeat."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from vla_rl import seeding
from vla_rl.algorithms import Algorithm, AlgorithmState
from vla_rl.curricula import Curriculum
from vla_rl.demos.keeper import Keeper
from vla_rl.episode_end import EpisodeEnd
from vla_rl.learning.learner import Learner
from vla_rl.learning.running_moments import RunningMoments
from vla_rl.learning.shared_episodes import SharedEpisodes, from_afar
from vla_rl.results.train_metrics import env_steps, episode_metrics
from vla_rl.rewards import Reward, rewarded
from vla_rl.rollout.collector import Collector, OnEpisode, episode_keys
from vla_rl.rollout.episodes import finite_groups, without_images
from vla_rl.rollout.play import PlaySettings
from vla_rl.train_config import TrainConfig
from vla_rl.types import Floats, Group, RolloutBatch, Task, Timing


class Draw(NamedTuple):
    """The groups of one iteration.

    Attributes:
        kept: Groups to learn from.
        played: All groups that were played.
        seconds: Wall time by part.
        tries: Number of draws.
    """

    kept: list[Group]
    played: list[Group]
    seconds: dict[str, float]
    tries: int


@dataclass
class Loop:
    """The state of a run, and one iteration of it.

    Attributes:
        rewards: The rewards of the run, by name.
        tasks: The tasks to train on.
        end: How episodes end.
        seed: Seed of noise and minibatches.
        statistics: Running statistics of proprioception, if they are updated. The policy gets them
            after every iteration, so that acting and learning in one iteration use the same.
        state: State of the algorithm.
        iteration: Iterations done.
        env_steps: Environment steps taken so far.
    """

    collector: Collector
    learner: Learner
    algorithm: Algorithm
    curriculum: Curriculum
    rewards: Mapping[str, Reward]
    end: EpisodeEnd
    tasks: Sequence[Task]
    config: TrainConfig
    seed: int
    statistics: RunningMoments | None = None
    state: AlgorithmState = field(init=False)
    iteration: int = 0
    env_steps: int = 0
    episodes: int = 0
    seconds: float = 0.0
    not_finite: int = 0
    on_episode: OnEpisode = field(default=lambda task, share: None)
    keeper: Keeper | None = None

    def __post_init__(self) -> None:
        self.config.check_groups(self.algorithm.group_size)
        if self.algorithm.uses_reference and self.learner.reference is None:
            raise ValueError(
                "the algorithm needs a reference policy for its KL, and none was given"
            )
        self.use_density(self.algorithm.density_for(self.learner.policy))
        self.state = self.algorithm.new_state(self.tasks)
        self._shared = SharedEpisodes(self.learner.ranks)

    def use_density(self, density: str) -> None:
        """Act and score by a density, also the reference policy."""
        for policy in filter(None, (self.learner.policy, self.learner.reference)):
            policy.use_density(density)

    def step(self) -> dict[str, float]:
        """One iteration: collect, update, and return what to log."""
        began = time.perf_counter()
        draw = self._draw()
        if self.keeper is not None:
            self.keeper.keep(draw.played, self.iteration)
        collected = time.perf_counter()
        metrics: dict[str, float] = {}
        clamped = self._clamped(draw)
        self.algorithm.observe([self._shared.view(group) for group in draw.played], self.state)
        if draw.kept:
            rng = seeding.generator(self.seed, "minibatches", self.iteration)
            batch = RolloutBatch.pack(draw.kept)
            self.learner.progress = self.progress
            metrics = self.algorithm.update(self.learner, batch, self.state, rng)
        self._follow_states(draw)
        self.iteration += 1
        self.env_steps += env_steps(draw.played)
        self.episodes += sum(map(len, draw.played))
        ended = time.perf_counter()
        self.seconds += ended - began
        parts = {**draw.seconds, "update": ended - collected}
        return {
            **metrics,
            **clamped,
            **self.learner.metrics(),
            "train/groups_not_finite": self.not_finite,
            **self._describe(draw),
            **_shares(parts, ended - began),
        }

    @property
    def progress(self) -> float:
        """Completed share of the run's iterations or environment steps, whichever is larger."""
        most = self.config.env_steps or float("inf")
        return min(1.0, max(self.iteration / self.config.iterations, self.env_steps / most))

    def _draw(self) -> Draw:
        """Play groups; with dynamic sampling, until enough are kept or no draws are left."""
        ranks, size = self.learner.ranks, self.algorithm.group_size
        wanted = self.config.episodes_per_iteration // size
        tries = self.config.max_tries if self.algorithm.dynamic_sampling else 1
        kept: list[Group] = []
        played: list[Group] = []
        timing = Timing()
        for attempt in range(tries):
            specs = self.curriculum.sample(wanted - len(kept))
            count = len(specs) * size
            keys = episode_keys(self.seed, "train", self.iteration, attempt, count=count)
            # A group stays on one rank; then all ranks get all groups, in the order of a single
            # rank.
            mine = ranks.share(range(len(specs)))
            rollout = self.collector.collect(
                self.learner.policy,
                [specs[i] for i in mine for _ in range(size)],
                [keys[i * size + member] for i in mine for member in range(size)],
                self._play_settings(),
                self.on_episode,
            )
            for part, seconds in rollout.seconds.items():
                timing.add(part, seconds)
            played_here = rollout.trajectories
            groups = [played_here[i : i + size] for i in range(0, len(played_here), size)]
            groups = rewarded(groups, self.rewards, self.end, self._shared.score)
            groups = [[without_images(t) for t in group] for group in groups]
            every = ranks.exchange(groups, from_afar)
            groups = finite_groups(every)
            self.not_finite += len(every) - len(groups)
            self.curriculum.update(groups)
            played += groups
            kept += [group for group in groups if self.algorithm.keep(self._shared.view(group))]
            if len(kept) >= wanted:
                break
        return Draw(kept, played, timing.seconds, attempt + 1)

    def _play_settings(self) -> PlaySettings:
        looks = any(reward.needs_images for reward in self.rewards.values())
        return PlaySettings(
            keep_images=looks,
            final_value=self.end.bootstrap,
            final_obs=looks,
            version=self.learner.version,
        )

    def _follow_states(self, draw: Draw) -> None:
        """Update the statistics of proprioception; the next iteration is the first to use them."""
        if self.statistics is None:
            return
        self.statistics.add(_states(draw))
        self.learner.policy.set_statistics(self.statistics.mean, self.statistics.std)

    def _clamped(self, draw: Draw) -> dict[str, float]:
        return {"train/clamped_states": self.learner.policy.clamped_share(_states(draw))}

    def _describe(self, draw: Draw) -> dict[str, float]:
        ranks = self.learner.ranks
        return {
            **episode_metrics(draw.played, draw.kept),
            "train/tries": draw.tries,
            "train/env_steps": self.env_steps,
            "train/episodes": self.episodes,
            "train/workers_lost": sum(ranks.all_gather([self.collector.lost])),
            "train/episodes_retried": sum(ranks.all_gather([self.collector.retried])),
        }


OnIteration = Callable[[Loop, dict[str, float]], None]


def until_done(loop: Loop, on_iteration: OnIteration, stopped: Callable[[], bool]) -> None:
    """Iterate until the configured iterations, minutes or steps are done, or until ``stopped()``.

    ``stopped`` is called between iterations only, so the loop always ends after a whole iteration.
    """
    while not over(loop) and not loop.learner.ranks.any(stopped()):  # signals differ, too
        on_iteration(loop, loop.step())


def over(loop: Loop) -> bool:
    """Whether the configured iterations, minutes or steps are done; all ranks agree."""
    limit = 60 * loop.config.minutes or float("inf")
    most_steps = loop.config.env_steps or float("inf")
    done = loop.iteration >= loop.config.iterations or loop.env_steps >= most_steps
    return loop.learner.ranks.any(done or loop.seconds >= limit)  # clocks differ


def _states(draw: Draw) -> Floats:
    """Proprioception ``[n, S]`` at every decision that was made."""
    return np.concatenate([t.obs.state for group in draw.played for t in group])


def _shares(parts: Mapping[str, float], total: float) -> dict[str, float]:
    """Metrics ``time/*``: seconds by part, and in total."""
    return {**{f"time/{part}": seconds for part, seconds in parts.items()}, "time/total": total}
