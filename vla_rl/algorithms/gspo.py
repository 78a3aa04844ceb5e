"""GSPO: group sequence policy optimisation (arXiv 2507.18071).

One ratio per episode, the geometric mean over its units, so that ratio, clip and reward have the
same unit. It differs from GRPO only after the first gradient step on a batch.

The paper's clip ranges (3e-4 below, 4e-4 above) belong to answers of thousands of tokens: the
geometric mean of n ratios deviates from 1 like 1 / sqrt(n). For robots the range is measured, such
that about 15 % of ratios lie beyond it after one step, the share that the paper saw clipped;
`--algo.clip-quantile 0 --algo.clip-ratio-low 3e-4 --algo.clip-ratio-high 4e-4` brings the paper's
back.
"""

from __future__ import annotations

from dataclasses import dataclass

from vla_rl.functional import RatioLevel
from vla_rl.learning.group_relative import GroupRelative


@dataclass(frozen=True)
class Algorithm(GroupRelative):
    """Standardised group advantages with one clipped ratio per episode."""

    importance_sampling_level: RatioLevel = "sequence"
    """One ratio per episode; `sequence_token` allows advantages that differ inside an episode."""
    clip_quantile: float = 0.85
    """Both clip ranges are this quantile of the distances of the ratios from 1 after the first
    gradient step on each batch, as a running mean; 0 for given ranges."""
