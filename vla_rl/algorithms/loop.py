"""LOOP: leave-one-out PPO, as used for VLA policies by RIPT-VLA.

Several rollouts from one identical start form a group. Each rollout's advantage is its return minus
the mean of the others (no critic, no division by a standard deviation), applied with PPO's clipped
ratio. Groups in which every return is equal teach nothing: they are dropped and drawn again.

Papers: LOOP, arXiv 2502.01600 (advantage and objective); RIPT-VLA, arXiv 2505.17016 (rejection of
groups without contrast, one ratio per low-level action).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from vla_rl import functional as F
from vla_rl.algorithms._policy_gradient import ClippedUpdate
from vla_rl.learner import Learner
from vla_rl.types import Group, RolloutBatch

NO_CONTRAST = 1e-6  # returns closer than this are equal; never compare floats with zero


@dataclass(frozen=True)
class Algorithm:
    """Leave-one-out advantages with PPO's clipped ratio."""

    group_size: int = 8
    """Rollouts from each start (K in RIPT-VLA)."""
    clip_ratio_low: float = 0.2
    """Clip range below a ratio of 1."""
    clip_ratio_high: float = 0.28
    """Clip range above a ratio of 1 (DAPO's clip-higher keeps exploration alive)."""
    importance_sampling_level: F.RatioLevel = "action"
    """One ratio per `token`, per low-level `action` (RIPT-VLA) or per `chunk`."""
    loss_agg_mode: F.Aggregation = "seq-mean-token-mean"
    """How unit losses are averaged; LOOP normalises by the length of the rollout."""
    ppo_epochs: int = 6
    """Passes over each batch."""
    ppo_mini_batch_size: int = 128
    """Decisions in a gradient step."""
    target_kl: float = 0.03
    """Passes stop early when the KL per unit exceeds this; 0 switches it off."""

    uses_critic: ClassVar[bool] = False
    trains: ClassVar[tuple[str, ...]] = ("head",)

    def __post_init__(self) -> None:
        if self.group_size < 2:
            raise ValueError(
                f"LOOP compares rollouts of a group: group_size must be at least 2, "
                f"got {self.group_size}"
            )
        if not 0 < self.clip_ratio_low < 1:
            raise ValueError(f"clip_ratio_low must be in (0, 1), got {self.clip_ratio_low}")
        if not self.clip_ratio_high > 0:
            raise ValueError(f"clip_ratio_high must be positive, got {self.clip_ratio_high}")
        if self.ppo_epochs < 1 or self.ppo_mini_batch_size < 1:
            raise ValueError("ppo_epochs and ppo_mini_batch_size must be at least 1")

    def keep(self, group: Group) -> bool:
        """Whether the group has contrast."""
        returns = [trajectory.total_reward for trajectory in group]
        return max(returns) - min(returns) > NO_CONTRAST

    def update(
        self, learner: Learner, batch: RolloutBatch, rng: np.random.Generator
    ) -> dict[str, float]:
        """Improve the policy on one batch of groups; returns what to log."""
        returns = torch.from_numpy(batch.reward.sum(axis=1))
        advantage = F.leave_one_out(returns, torch.from_numpy(batch.group))
        clipped = ClippedUpdate(
            clip_ratio_low=self.clip_ratio_low,
            clip_ratio_high=self.clip_ratio_high,
            importance_sampling_level=self.importance_sampling_level,
            loss_agg_mode=self.loss_agg_mode,
            ppo_epochs=self.ppo_epochs,
            ppo_mini_batch_size=self.ppo_mini_batch_size,
            target_kl=self.target_kl,
        )
        return clipped.run(learner, batch, advantage, rng)

    def state_dict(self) -> dict[str, object]:
        """LOOP keeps nothing between batches."""
        return {}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """LOOP keeps nothing between batches."""
