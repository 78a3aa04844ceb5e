"""CISPO: clipped importance-sampling weights (MiniMax-M1, arXiv 2506.13585).

The clipped ratio only *weights* the gradient of the log-probability, so no unit is ever dropped
from the gradient. There is no lower bound and no KL; dynamic sampling is that of DAPO.

Differences from the paper: the mean over episodes of means over units instead of the paper's mean
over all tokens, for the reason given in `dapo`. The paper does not disclose its upper bound.
"""

from __future__ import annotations

from dataclasses import dataclass

from vla_rl.functional import LossType
from vla_rl.learning.group_relative import GroupRelative


@dataclass(frozen=True)
class Algorithm(GroupRelative):
    """REINFORCE weighted by clipped ratios."""

    loss_type: LossType = "cispo"
    """Surrogate loss: the clipped ratio is a weight without gradient."""
    clip_ratio_low: float = 1.0
    """Clip range below a ratio of 1; 1 or more for none."""
    clip_ratio_high: float = 0.28
    """Clip range above a ratio of 1: weights are at most 1 plus this."""
    dynamic_sampling: bool = True
    """Draw new starts in place of those whose group has no contrast."""
