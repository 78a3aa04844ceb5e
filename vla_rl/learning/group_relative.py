"""Algorithms that compare rollouts from one start: the group is the baseline, not a critic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vla_rl import functional as F
from vla_rl.learning.policy_gradient import Credit, PolicyGradient
from vla_rl.plugins import unknown
from vla_rl.types import Group, RolloutBatch

Estimator = Literal[
    "grpo", "grpo_process", "rloo", "opo", "reinforce_plus_plus", "reinforce_plus_plus_baseline"
]

WITHOUT_GROUPS = ("reinforce_plus_plus",)  # the baseline is the whole batch
TO_GO = ("grpo_process", "reinforce_plus_plus")  # advantages of single decisions


@dataclass(frozen=True)
class GroupRelative(PolicyGradient):
    """Settings of every algorithm whose baseline comes from other rollouts."""

    adv_estimator: Estimator = "grpo"
    """Advantage estimator: `grpo` (return minus the group's mean, scaled), `grpo_process`
    (normalised rewards of single decisions, summed to the end; for dense rewards), `rloo` (return
    minus the mean of the others), `opo` (return minus the length-weighted mean),
    `reinforce_plus_plus` (reward-to-go of each decision, whitened over the batch) or
    `reinforce_plus_plus_baseline` (return minus the group's mean, whitened)."""
    scale_rewards: F.RewardScale = "group"
    """Divisor of `grpo` advantages: standard deviation of the `group` or the `batch`, or `none`."""
    filter_lower: float = 0.0
    """Smallest share of successes in a group, in [0, 1]; groups below it are dropped."""
    filter_upper: float = 1.0
    """Largest share of successes in a group, in [0, 1]; groups above it are dropped."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adv_estimator not in WITHOUT_GROUPS and self.group_size < 2:
            raise ValueError(
                f"adv_estimator {self.adv_estimator!r} compares rollouts of a group: group_size "
                f"must be at least 2, got {self.group_size}"
            )
        if not 0 <= self.filter_lower < self.filter_upper <= 1:
            raise ValueError(
                f"filter_lower {self.filter_lower} and filter_upper {self.filter_upper} must be "
                "shares of successes, the lower one first"
            )

    def keep(self, group: Group) -> bool:
        """Whether the share of successes is allowed and, if needed, the group has contrast."""
        contrast = self._has_contrast(group)
        solved = sum(t.success for t in group) / len(group)
        inside = self.filter_lower <= solved <= self.filter_upper
        return inside and (contrast or self.adv_estimator in WITHOUT_GROUPS)

    def _has_contrast(self, group: Group) -> bool:
        """Whether the returns differ or, where single decisions are credited, the rewards do."""
        steps = torch.from_numpy(np.concatenate([t.reward for t in group]))
        if self.credits_decisions:
            return F.has_contrast(steps)
        size = max(float(np.abs(t.reward).sum()) for t in group)
        return F.has_contrast(torch.tensor([t.total_reward for t in group]), size)

    @property
    def credits_decisions(self) -> bool:
        """Whether single decisions are credited with the rewards that follow them."""
        return self.adv_estimator in TO_GO

    def credit(self, batch: RolloutBatch, reward: Tensor, state: Any) -> Credit:
        """Compute advantages with the chosen estimator."""
        return Credit(batch, self.advantage(batch, reward))

    def advantage(self, batch: RolloutBatch, reward: Tensor) -> Tensor:
        """Advantages ``[N]`` or ``[N, T]`` from rewards ``[N, T]``."""
        if self.adv_estimator not in ESTIMATORS:
            raise ValueError(unknown("adv_estimator", self.adv_estimator, ESTIMATORS))
        return ESTIMATORS[self.adv_estimator](batch, reward, self)


def grpo(batch: RolloutBatch, reward: Tensor, settings: GroupRelative) -> Tensor:
    """Return minus the group's mean, scaled as ``scale_rewards`` says."""
    return F.group_relative(reward.sum(1), _group(batch), settings.scale_rewards)


def grpo_process(batch: RolloutBatch, reward: Tensor, settings: GroupRelative) -> Tensor:
    """Normalised rewards of single decisions, summed to the end."""
    return F.process_supervision(reward, torch.from_numpy(batch.valid), _group(batch))


def rloo(batch: RolloutBatch, reward: Tensor, settings: GroupRelative) -> Tensor:
    """Return minus the mean of the other members."""
    return F.leave_one_out(reward.sum(1), _group(batch))


def opo(batch: RolloutBatch, reward: Tensor, settings: GroupRelative) -> Tensor:
    """Return minus the length-weighted mean of the group."""
    returns = reward.sum(1)
    units = torch.from_numpy(batch.mask).flatten(1).sum(1).to(returns.dtype)
    return F.length_weighted_baseline(returns, units, _group(batch))


def reinforce_plus_plus(batch: RolloutBatch, reward: Tensor, settings: GroupRelative) -> Tensor:
    """Rewards-to-go, whitened over the batch."""
    weight = torch.from_numpy(batch.mask).sum(2).to(reward.dtype)
    return F.whiten(F.returns_to_go(reward), weight)


def reinforce_plus_plus_baseline(
    batch: RolloutBatch, reward: Tensor, settings: GroupRelative
) -> Tensor:
    """Return minus the group's mean, whitened with equal weight for every episode.

    With a weight for every unit, long failures would dominate the scale.
    """
    centred = F.group_relative(reward.sum(1), _group(batch), "none")
    return F.whiten(centred, torch.ones_like(centred))


def _group(batch: RolloutBatch) -> Tensor:
    return torch.from_numpy(batch.group)


ESTIMATORS: dict[str, Callable[[RolloutBatch, Tensor, GroupRelative], Tensor]] = {
    "grpo": grpo,
    "grpo_process": grpo_process,
    "rloo": rloo,
    "opo": opo,
    "reinforce_plus_plus": reinforce_plus_plus,
    "reinforce_plus_plus_baseline": reinforce_plus_plus_baseline,
}
"""Maps a batch and its ``[N, T]`` rewards to advantages ``[N]`` or ``[N, T]``."""
