"""Rewards: what algorithms learn from, made of whole groups of episodes.

A module defines a dataclass ``Reward`` whose fields are its settings (``--reward.NAME.FIELD``).
Most look at one episode at a time: they inherit :class:`EpisodeReward` and define
``of(trajectory, end)``. One that compares episodes, or that learns, defines ``score`` itself.
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

    It may hold a network: rewards are computed where the learner is, never in workers. Of several
    processes each computes those of the groups that it played. But a reward that learns, one whose
    ``state_dict`` is not empty, is given every group in every process, so that what it learns is
    the same in all. What changes during a run is no field; it is assigned in ``__post_init__``.
    """

    @property
    def weight(self) -> float:
        """What it is multiplied with before the rewards of a run are added up."""

    @property
    def pays(self) -> Pays:
        """For what: the ``outcome`` of an episode (also part by part), its single ``steps``, or
        ``shaping``, which must not change what is best.
        """

    @property
    def needs_images(self) -> bool:
        """Whether it looks at images, which are else dropped where features replace them, and at
        what was to be seen after the last step (``Trajectory.final_obs``). If it learns, too,
        several processes send each other the images of all episodes.
        """

    def score(self, groups: Sequence[Group], end: EpisodeEnd) -> list[list[Floats]]:
        """``[T]`` float32 for every episode of every group, without its weight.

        What one group is paid depends on no other, but for what the reward has learned.
        """

    def state_dict(self) -> dict[str, Any]:
        """What changes during a run, for resuming: as of a checkpoint."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""


def settings_types(names: Sequence[str]) -> dict[str, type]:
    """The class ``Reward`` of every plug-in, by the name that its options begin with.

    Raises:
        ValueError: If one is unknown, two would share their options, or one has fields that are no
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
                    f"reward {name!r} declares {field.name!r}, which is no setting: assign what "
                    "changes during a run in __post_init__ instead"
                )
    return kinds


@dataclass(frozen=True)
class EpisodeReward(ABC):
    """A reward without state that looks at one episode at a time."""

    weight: float = 1.0
    """What this reward is multiplied with before the rewards of the run are added up."""

    pays: ClassVar[Pays] = "outcome"
    needs_images: ClassVar[bool] = False

    @abstractmethod
    def of(self, trajectory: Trajectory, end: EpisodeEnd) -> Floats:
        """``[T]`` float32; pure."""

    def score(self, groups: Sequence[Group], end: EpisodeEnd) -> list[list[Floats]]:
        """Every episode by itself."""
        return [[self.of(trajectory, end) for trajectory in group] for group in groups]

    def state_dict(self) -> dict[str, Any]:
        """Nothing changes."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Nothing to take over."""


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
    """The groups with the weighted sum of the rewards, and whether anything follows an episode.

    Args:
        groups: Episodes as they were played.
        rewards: By name.
        end: How episodes end.
        score: Asks a reward; several processes may do that together.

    Raises:
        ValueError: If a reward's numbers are not one for each decision.
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
