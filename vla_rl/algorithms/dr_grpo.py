"""Dr. GRPO: GRPO without its two biases (arXiv 2503.20783).

No division by the group's standard deviation (which favours starts that are nearly always or
nearly never solved), and unit losses are summed and divided by a constant instead of the length
of the rollout (which favours long failures).
"""

from __future__ import annotations

from dataclasses import dataclass

from vla_rl.functional import Aggregation, RewardScale
from vla_rl.learning.group_relative import GroupRelative


@dataclass(frozen=True)
class Algorithm(GroupRelative):
    """Centred group advantages with one constant normaliser."""

    scale_rewards: RewardScale = "none"
    """Divisor of the advantages: `none`, or the standard deviation of the `group` or `batch`."""
    loss_agg_mode: Aggregation = "seq-mean-token-sum-norm"
    """Aggregation: sum over units divided by `loss_scale_factor`, by default a full episode."""
