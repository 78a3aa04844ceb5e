"""GSPO: group sequence policy optimisation (arXiv 2507.18071).

One ratio per episode, the geometric mean over its units, so that ratio, clip and reward all apply
to the episode. It differs from GRPO only after the first gradient step on a batch.

The paper's clip ranges (3e-4 below, 4e-4 above) suit answers of thousands of tokens: the geometric
mean of n ratios deviates from 1 like 1 / sqrt(n). Here the range is measured such that about 15 %
of the ratios lie outside it after one step, the clipped share that the paper reports.
`--algo.clip-quantile 0 --algo.clip-ratio-low 3e-4 --algo.clip-ratio-high 4e-4` restores the paper's
ranges.
"""

from __future__ import annotations

from dataclasses import dataclass

from vla_rl.functional import RatioLevel
from vla_rl.learning.group_relative import GroupRelative


@dataclass(frozen=True)
class Algorithm(GroupRelative):
    """Standardised group advantages with one clipped ratio per episode."""

    importance_sampling_level: RatioLevel = "sequence"
    """Level of the importance ratio: one per episode, `sequence` or, where advantages differ within
    an episode, `sequence_token`."""
    clip_quantile: float = 0.85
    """Measure the clip range: the running mean of this quantile of the distances of ratios from 1
    after the first gradient step on each batch; 0 uses `clip_ratio_low` and `clip_ratio_high`."""
