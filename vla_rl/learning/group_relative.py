"""Algorithms that compare rollouts of one start: no critic, the group is the baseline."""

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
    """The options of every algorithm that takes its baseline from other rollouts."""

    adv_estimator: Estimator = "grpo"
    """Advantage: `grpo` (over the group's mean, scaled), `grpo_process` (normalised rewards of
    single decisions, summed to the end; for dense rewards), `rloo` (over the mean of the others),
    `opo` (over the length-weighted mean), `reinforce_plus_plus` (the rewards from each decision on,
    whitened over the batch) or
    `reinforce_plus_plus_baseline` (over the group's mean, then whitened)."""
    scale_rewards: F.RewardScale = "group"
    """What `grpo` divides by: standard deviation of the `group`, of the `batch`, or `none`."""
    filter_lower: float = 0.0
    """Groups with a smaller share of successes are dropped."""
    filter_upper: float = 1.0
    """Groups with a larger share of successes are dropped."""

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
        """Whether returns differ (if that matters) and the share of successes is in its window."""
        contrast = self._has_contrast(group)
        solved = sum(t.success for t in group) / len(group)
        inside = self.filter_lower <= solved <= self.filter_upper
        return inside and (contrast or self.adv_estimator in WITHOUT_GROUPS)

    def _has_contrast(self, group: Group) -> bool:
        """Whether there is anything to compare: in the rewards of steps, or else in the returns."""
        steps = torch.from_numpy(np.concatenate([t.reward for t in group]))
        if self.credits_decisions:
            return F.has_contrast(steps)
        size = max(float(np.abs(t.reward).sum()) for t in group)
        return F.has_contrast(torch.tensor([t.total_reward for t in group]), size)

    @property
    def credits_decisions(self) -> bool:
        """Whether single decisions are credited with what came after them."""
        return self.adv_estimator in TO_GO

    def credit(self, batch: RolloutBatch, reward: Tensor, state: Any) -> Credit:
        """Advantages of the chosen estimator."""
        return Credit(batch, self.advantage(batch, reward))

    def advantage(self, batch: RolloutBatch, reward: Tensor) -> Tensor:
        """``[N]`` or ``[N, T]`` from ``[N, T]`` rewards."""
        if self.adv_estimator not in ESTIMATORS:
            raise ValueError(unknown("adv_estimator", self.adv_estimator, ESTIMATORS))
        return ESTIMATORS[self.adv_estimator](batch, reward, self)


def grpo(batch: RolloutBatch, reward: Tensor, settings: GroupRelative) -> Tensor:
    """The return over the group's mean, scaled by ``scale_rewards``."""
    return F.group_relative(reward.sum(1), _group(batch), settings.scale_rewards)


def grpo_process(batch: RolloutBatch, reward: Tensor, settings: GroupRelative) -> Tensor:
    """Normalised rewards of single decisions, summed to the end."""
    return F.process_supervision(reward, torch.from_numpy(batch.valid), _group(batch))


def rloo(batch: RolloutBatch, reward: Tensor, settings: GroupRelative) -> Tensor:
    """The return over the mean of the others."""
    return F.leave_one_out(reward.sum(1), _group(batch))


def opo(batch: RolloutBatch, reward: Tensor, settings: GroupRelative) -> Tensor:
    """The return over the length-weighted mean."""
    returns = reward.sum(1)
    units = torch.from_numpy(batch.mask).flatten(1).sum(1).to(returns.dtype)
    return F.length_weighted_baseline(returns, units, _group(batch))


def reinforce_plus_plus(batch: RolloutBatch, reward: Tensor, settings: GroupRelative) -> Tensor:
    """Rewards to go, whitened over the batch: what came before a decision is no merit of it."""
    weight = torch.from_numpy(batch.mask).sum(2).to(reward.dtype)
    return F.whiten(F.returns_to_go(reward), weight)


def reinforce_plus_plus_baseline(
    batch: RolloutBatch, reward: Tensor, settings: GroupRelative
) -> Tensor:
    """The return over the group's mean, whitened with one weight per episode.

    Weighted by units, long failures would set the scale.
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
"""From a batch and its ``[N, T]`` rewards to advantages, ``[N]`` or ``[N, T]``."""
