"""Rewards that algorithms learn from, computed for whole groups of episodes.

A module defines a dataclass ``Reward`` whose fields are its settings (``--reward.NAME.FIELD``).
Most look at one episode at a time: they inherit :class:`EpisodeReward` and define
``of(trajectory, end)``. A reward that compares episodes, or learns, defines ``score`` itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol

import numpy as np

from vla_rl import plugins
from vla_rl.episode_end import EpisodeEnd, Pays
from vla_rl.types import Floats, Group, Trajectory


class Reward(Protocol):
    """What a module in ``rewards/`` (or a user's own) must define as ``Reward``.

    It may hold a network: rewards are computed in the learner's process, never in workers. With
    several processes, each computes the rewards of the groups that it played. A reward that learns,
    whose ``state_dict`` is not empty, gets every group in every process, so that it learns the same
    in all. State that changes during a run is not a field; assign it in ``__post_init__``.
    """

    @property
    def weight(self) -> float:
        """Factor on this reward in the sum of the run's rewards."""

    @property
    def pays(self) -> Pays:
        """What it is paid for: the ``outcome`` of an episode (also part by part), single
        ``steps``, or ``shaping``, which must not change the optimal policy.
        """

    @property
    def needs_images(self) -> bool:
        """Whether it needs the observation after the last step (``Trajectory.final_obs``), and
        images, which are otherwise dropped where cached features replace them. If it learns, too,
        several processes send each other the images of all episodes.
        """

    def score(self, groups: Sequence[Group], end: EpisodeEnd) -> list[list[Floats]]:
        """Rewards ``[T]`` float32 of every episode of every group, without the weight.

        Those of one group do not depend on other groups, except by what the reward has learned.
        """

    def state_dict(self) -> dict[str, Any]:
        """State that changes during a run, for a checkpoint."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state."""


def settings_types(names: Sequence[str]) -> dict[str, type]:
    """The class ``Reward`` of every plug-in, by the name that its options begin with.

    Raises:
        ValueError: If one is unknown, two would share their options, or one has fields that are not
            settings.
    """
    kinds: dict[str, type] = {}
    for name in names:
        short = name.rpartition(".")[2]
        if short in kinds:
            raise ValueError(
                f"rewards {list(names)} name {short!r} twice, so their options would be the same: "
                "give one a weight instead, or one of two modules another name"
            )
        kinds[short] = plugins.load("rewards", name).Reward
        for field in fields(kinds[short]):
            if not field.init:
                raise ValueError(
                    f"reward {name!r} declares {field.name!r}, which is not a setting: assign "
                    "state that changes during a run in __post_init__ instead"
                )
    return kinds


@dataclass(frozen=True)
class EpisodeReward(ABC):
    """Base class of rewards without state that score each episode by itself."""

    weight: float = 1.0
    """Factor on this reward in the sum of the run's rewards."""

    pays: ClassVar[Pays] = "outcome"
    needs_images: ClassVar[bool] = False

    @abstractmethod
    def of(self, trajectory: Trajectory, end: EpisodeEnd) -> Floats:
        """Rewards ``[T]`` float32 of an episode, without the weight; a pure function."""

    def score(self, groups: Sequence[Group], end: EpisodeEnd) -> list[list[Floats]]:
        """Score every episode by itself."""
        return [[self.of(trajectory, end) for trajectory in group] for group in groups]

    def state_dict(self) -> dict[str, Any]:
        """No state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """No state to restore."""


Score = Callable[[Reward, Sequence[Group], EpisodeEnd], list[list[Floats]]]


def scored(reward: Reward, groups: Sequence[Group], end: EpisodeEnd) -> list[list[Floats]]:
    """What a reward pays for groups, by itself."""
    return reward.score(groups, end)


def rewarded(
    groups: Sequence[Group],
    rewards: Mapping[str, Reward],
    end: EpisodeEnd,
    score: Score = scored,
) -> list[Group]:
    """Copies of groups with ``reward`` and ``bootstrapped`` filled in.

    Args:
        groups: Episodes as they were played.
        rewards: The rewards of the run, by name; their weighted sum is used.
        end: How episodes end.
        score: Asks a reward; several processes may do that together.

    Raises:
        ValueError: If a reward does not return one number for each decision.
    """
    total = [[np.zeros(t.decisions, np.float32) for t in group] for group in groups]
    for name, reward in rewards.items():
        for sums, paid in zip(total, score(reward, groups, end), strict=True):
            if len(paid) != len(sums):
                raise ValueError(
                    f"reward {name!r} paid {len(paid)} episodes of a group of {len(sums)}"
                )
            for member, numbers in enumerate(paid):
                if numbers.shape != sums[member].shape:
                    raise ValueError(
                        f"reward {name!r} gave numbers of shape {numbers.shape} for an episode of "
                        f"{len(sums[member])} decisions"
                    )
                sums[member] = sums[member] + np.float32(reward.weight) * numbers
    return [
        [
            replace(t, reward=reward.astype(np.float32), bootstrapped=not end.closed(t))
            for t, reward in zip(group, sums, strict=True)
        ]
        for group, sums in zip(groups, total, strict=True)
    ]
