"""GRPO: group relative policy optimisation (DeepSeekMath, arXiv 2402.03300).

The advantage of a rollout is its return minus the mean of its group, divided by the group's
standard deviation. PPO's clip per token; a KL to the starting policy in the loss.

The paper's settings: G = 64, clip 0.2, KL 0.04 with the k3 estimator. Differences from the paper:
groups of 8 and several passes over each batch, because robot episodes are more expensive than
answers.
"""

from __future__ import annotations

from dataclasses import dataclass

from vla_rl.learning.group_relative import GroupRelative
from vla_rl.learning.settings import KLPlacement


@dataclass(frozen=True)
class Algorithm(GroupRelative):
    """Standardised group advantages, PPO clip per token, KL in the loss."""

    kl_coef: float = 0.04
    """Weight of the KL divergence from the starting policy (paper: 0.04)."""
    kl_placement: KLPlacement = "loss"
    """Where the KL divergence is added: to the `loss`, to the `reward`, or `none`."""
