"""DAPO: decoupled clip and dynamic sampling (arXiv 2503.14476).

GRPO with a wider clip above 1, no KL, and groups without contrast replaced by new ones. The
paper's soft penalty on overlong answers is the reward `overlong`.

Differences from the paper: the paper averages over all tokens of a batch (`token-mean`). Robot
failures run to the time limit and successes do not, so that mode lowers probabilities on balance;
the mean over episodes of means over units does not. `--algo.loss-agg-mode token-mean` restores the
paper's choice.
"""

from __future__ import annotations

from dataclasses import dataclass

from vla_rl.learning.group_relative import GroupRelative


@dataclass(frozen=True)
class Algorithm(GroupRelative):
    """GRPO with clip-higher and dynamic sampling."""

    clip_ratio_high: float = 0.28
    """Clip range above a ratio of 1: lets unlikely actions become likely faster (clip-higher)."""
    dynamic_sampling: bool = True
    """Draw new starts in place of those whose group has no contrast."""
