"""PPO with generalised advantage estimation (arXiv 1707.06347 and 1506.02438).

A critic judges every decision, so that single decisions get credit and rollouts need not come in
groups. Time limits are not failures: an episode that was cut is continued by the critic's value of
its last observation, one that ended is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vla_rl import functional as F
from vla_rl.learner import Learner
from vla_rl.policy_gradient import Credit, PolicyGradient
from vla_rl.types import RolloutBatch


@dataclass(frozen=True)
class Algorithm(PolicyGradient):
    """Clipped policy gradient with a critic."""

    group_size: int = 1
    """Rollouts from each start; a critic needs no comparison, so every start is another."""
    importance_sampling_level: F.RatioLevel = "action"
    """One ratio per low-level action, whose dimensions are decided together."""
    loss_agg_mode: F.Aggregation = "token-mean"
    """Mean over all units, as every decision has its own advantage."""
    gamma: float = 0.99
    """Discount per *decision* (a chunk of actions), not per environment step."""
    gae_lambda: float = 0.95
    """Between one-step advantages (0) and returns (1)."""
    vf_coef: float = 0.5
    """Weight of the critic's loss."""
    cliprange_value: float = 0.2
    """The critic is not rewarded for leaving its old estimate by more; 0 for no such clip."""
    critic_warmup: int = 3
    """Updates at the beginning that train the critic only."""
    whiten_advantages: bool = True
    """Zero mean and unit variance in every minibatch."""

    uses_critic: ClassVar[bool] = True
    trains: ClassVar[tuple[str, ...]] = ("head", "critic")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gamma", "gae_lambda"):
            if not 0 <= vars(self)[name] <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {vars(self)[name]}")
        for name in ("vf_coef", "cliprange_value", "critic_warmup"):
            if vars(self)[name] < 0:
                raise ValueError(f"{name} must not be negative, got {vars(self)[name]}")

    def credit(self, batch: RolloutBatch, reward: Tensor) -> Credit:
        """Generalised advantages, and what the critic should have said."""
        value, valid = torch.from_numpy(batch.chunk.value), torch.from_numpy(batch.valid)
        final = torch.from_numpy(batch.final_value)
        advantage = F.generalised_advantage(
            reward, value, final, valid, self.gamma, self.gae_lambda
        )
        target = advantage + value
        unexplained = (target - value)[valid].var() / target[valid].var().clamp(min=1e-8)
        log = {"critic/vf_explained_var": float(1 - unexplained)}
        return Credit(batch, advantage, target, log)

    def scale(self, advantage: Tensor) -> tuple[float, float]:
        """Whitening of a minibatch. Only here: group advantages must never be normalised again."""
        if not self.whiten_advantages or len(advantage) < 2:
            return 0.0, 1.0
        return float(advantage.mean()), 1 / (float(advantage.std()) + 1e-8)

    def value_loss(self, value: Tensor, old_value: Tensor, target: Tensor) -> Tensor:
        """Clipped squared error."""
        loss = F.clipped_value_loss(value, old_value, target, self.cliprange_value)
        return self.vf_coef * loss

    def actor_waits(self, learner: Learner) -> bool:
        """During the critic's warm-up."""
        return learner.version < self.critic_warmup
