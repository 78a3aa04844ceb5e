"""CISPO: clipped importance-sampling weights (MiniMax-M1, arXiv 2506.13585).

The ratio is clipped and then only *weights* the gradient of the log-probability: no unit is ever
dropped from the gradient. There is no lower bound, no KL, and dynamic sampling as in DAPO.

Differences from the paper: the mean over episodes of means over units instead of the paper's mean
over all tokens, for the reason given in `dapo`. The paper does not disclose its upper bound.
"""

from __future__ import annotations

from dataclasses import dataclass

from vla_rl.functional import LossType
from vla_rl.learning.group_relative import GroupRelative


@dataclass(frozen=True)
class Algorithm(GroupRelative):
    """REINFORCE weighted with clipped ratios."""

    loss_type: LossType = "cispo"
    """The clipped ratio is a weight without gradient."""
    clip_ratio_low: float = 1.0
    """Clip range below a ratio of 1; 1 and more is no bound."""
    clip_ratio_high: float = 0.28
    """Weights are at most 1 plus this."""
    dynamic_sampling: bool = True
    """Draw starts again in place of those whose group has nothing to teach."""
