"""LOOP: leave-one-out PPO, as used for VLA policies by RIPT-VLA.

Several rollouts from one identical start form a group. Each rollout's advantage is its return minus
the mean of the others (no critic, no division by a standard deviation), applied with PPO's clipped
ratio. Groups in which all returns are equal have no contrast; new ones are drawn in their place.

Papers: LOOP, arXiv 2502.01600 (advantage and objective); RIPT-VLA, arXiv 2505.17016 (rejection of
groups without contrast, one ratio per low-level action).
"""

from __future__ import annotations

from dataclasses import dataclass

from vla_rl.functional import RatioLevel
from vla_rl.learning.group_relative import Estimator, GroupRelative


@dataclass(frozen=True)
class Algorithm(GroupRelative):
    """Leave-one-out advantages with PPO's clipped ratio."""

    adv_estimator: Estimator = "rloo"
    """Advantage estimator: return minus the mean of the other rollouts of the group."""
    importance_sampling_level: RatioLevel = "action"
    """Level of the importance ratio: one per low-level action (RIPT-VLA)."""
    clip_ratio_high: float = 0.28
    """Clip range above a ratio of 1 (DAPO's clip-higher keeps exploration alive; RIPT-VLA 0.2)."""
    clip_ratio_c: float = 3.0
    """Dual clip: largest ratio used with a negative advantage, above 1; 0 for none. Without it one
    unlikely action can dominate the gradient of its minibatch."""
    dynamic_sampling: bool = True
    """Draw new starts in place of those whose group has no contrast (RIPT-VLA)."""
