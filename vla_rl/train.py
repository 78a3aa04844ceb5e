"""Reinforcement learning: draw starts, play groups, keep those with contrast, update, repeat."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from vla_rl import seeding
from vla_rl.algorithms import Algorithm, AlgorithmState
from vla_rl.curricula import Curriculum
from vla_rl.demos.keeper import Keeper
from vla_rl.episode_end import EpisodeEnd
from vla_rl.learning.learner import Learner
from vla_rl.learning.running_moments import RunningMoments
from vla_rl.results.train_metrics import env_steps, episode_metrics
from vla_rl.rewards import Reward, rewarded
from vla_rl.rollout.collector import Collector, OnEpisode, episode_keys
from vla_rl.rollout.episodes import finite_groups, without_images
from vla_rl.rollout.play import PlaySettings
from vla_rl.train_config import TrainConfig
from vla_rl.types import Floats, Group, RolloutBatch, Task, Timing

Paid = list[list[Floats]]
"""``[T]`` for every episode of every group."""


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
    _learning: dict[int, bool] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.config.check_groups(self.algorithm.group_size)
        if self.algorithm.uses_reference and self.learner.reference is None:
            raise ValueError(
                "the algorithm needs a reference policy for its KL, and none was given"
            )
        self._use_density(self.algorithm.density_for(self.learner.policy))
        self.state = self.algorithm.new_state(self.tasks)

    def _use_density(self, density: str) -> None:
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
        self.algorithm.observe([self._alike(group) for group in draw.played], self.state)
        if draw.kept:
            rng = seeding.generator(self.seed, "minibatches", self.iteration)
            batch = RolloutBatch.pack(draw.kept)
            self.learner.progress = self.progress
            metrics = self.algorithm.update(self.learner, batch, self.state, rng)
        self._follow_states(draw)
        self.iteration += 1
        ended = time.perf_counter()
        self.seconds += ended - began
        parts = {**draw.seconds, "update": ended - collected}
        return {
            **metrics,
            **clamped,
            **self._rates(),
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
            groups = rewarded(groups, self.rewards, self.end, self._score)
            groups = [[without_images(t) for t in group] for group in groups]
            every = ranks.exchange(groups, _from_afar)
            groups = finite_groups(every)
            self.not_finite += len(every) - len(groups)
            self.curriculum.update(groups)
            played += groups
            kept += [group for group in groups if self.algorithm.keep(self._alike(group))]
            if len(kept) >= wanted:
                break
        return Draw(kept, played, timing.seconds, attempt + 1)

    def _score(self, reward: Reward, groups: Sequence[Group], end: EpisodeEnd) -> Paid:
        """Of the groups that were played here; one that learns sees those of all ranks."""
        if not self._learns(reward):
            paid = reward.score(groups, end) if groups else []
            if reward.state_dict():
                raise ValueError(
                    f"state_dict() of {type(reward).__module__}.{type(reward).__name__} was empty "
                    "before the first episode, and is not empty after it: return every key from "
                    "the start, so that all processes know that this reward learns"
                )
            return paid
        shown = groups if reward.needs_images else [_from_afar(group) for group in groups]
        ranks = self.learner.ranks
        return ranks.share(reward.score(ranks.gather(shown), end))

    def _alike(self, group: Group) -> Group:
        """A group as every rank can see it, so that all ranks conclude the same from it."""
        return group if self.learner.ranks.size == 1 else _from_afar(group)

    def _learns(self, reward: Reward) -> bool:
        """Whether a reward had state before its first episode, which all ranks know alike."""
        return self._learning.setdefault(id(reward), bool(reward.state_dict()))

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

    def _rates(self) -> dict[str, float]:
        """The current learning rates and exploration standard deviations."""
        found = {f"learner/lr/{g['name']}": g["lr"] for g in self.learner.optimizer.param_groups}
        deviation = self.learner.policy.deviation()
        if deviation is not None:
            found |= {f"actor/std/{i}": float(std) for i, std in enumerate(deviation)}
        return {
            **found,
            "learner/steps_skipped": self.learner.skipped,
            "train/groups_not_finite": self.not_finite,
        }

    def _describe(self, draw: Draw) -> dict[str, float]:
        self.env_steps += env_steps(draw.played)
        self.episodes += sum(map(len, draw.played))
        ranks = self.learner.ranks
        return {
            **episode_metrics(draw.played, draw.kept),
            "train/tries": draw.tries,
            "train/env_steps": self.env_steps,
            "train/episodes": self.episodes,
            "train/workers_lost": sum(ranks.all_gather([self.collector.lost])),
            "train/episodes_retried": sum(ranks.all_gather([self.collector.retried])),
        }

    def state_dict(self) -> dict[str, Any]:
        """The state of the run apart from the learner's tensors, for a checkpoint."""
        return {
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            "episodes": self.episodes,
            "seconds": self.seconds,
            "not_finite": self.not_finite,
            "version": self.learner.version,
            "steps": self.learner.steps,
            "skipped": self.learner.skipped,
            "density": self.learner.policy.density,
            "algorithm": self.state.state_dict(),
            "statistics": {} if self.statistics is None else self.statistics.state_dict(),
            "curriculum": self.curriculum.state_dict(),
            "rewards": {name: reward.state_dict() for name, reward in self.rewards.items()},
            "keeper": {} if self.keeper is None else self.keeper.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state written by :meth:`state_dict`."""
        for name in ("iteration", "env_steps", "episodes", "seconds", "not_finite"):
            setattr(self, name, state[name])
        self.learner.version = int(state["version"])
        self.learner.steps = int(state["steps"])
        self.learner.skipped = int(state["skipped"])
        self._use_density(state.get("density", self.learner.policy.density))
        self.state.load_state_dict(state["algorithm"])
        if self.statistics is not None:
            self.statistics.load_state_dict(state["statistics"])
        self.curriculum.load_state_dict(state["curriculum"])
        for name, reward in self.rewards.items():
            if name in state.get("rewards", {}):  # checkpoints of earlier versions have none
                reward.load_state_dict(state["rewards"][name])
        if self.keeper is not None:
            self.keeper.load_state_dict(state["keeper"])


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


def _from_afar(group: Group) -> Group:
    return [t.from_afar() for t in group]


def _shares(parts: Mapping[str, float], total: float) -> dict[str, float]:
    """Metrics ``time/*``: seconds by part, and in total."""
    return {**{f"time/{part}": seconds for part, seconds in parts.items()}, "time/total": total}
