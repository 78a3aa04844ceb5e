"""RLOO: REINFORCE with a leave-one-out baseline (arXiv 2402.14740).

The whole rollout is one action: its log-probability, the sum over all units, is weighted with its
return minus the mean of the others. Strictly on-policy: one gradient step per batch, no ratio, no
clip. The paper's KL (k1 in the reward, 0.03 to 0.1) is `--algo.kl-coef 0.03 --algo.kl-placement
reward`; it is off here because it belongs to reward models that can be fooled.
"""

from __future__ import annotations

from dataclasses import dataclass

from vla_rl.functional import Aggregation, LossType
from vla_rl.learning.group_relative import Estimator, GroupRelative


@dataclass(frozen=True)
class Algorithm(GroupRelative):
    """Leave-one-out REINFORCE on whole rollouts."""

    adv_estimator: Estimator = "rloo"
    """Advantage over the mean of the other rollouts of the group."""
    loss_type: LossType = "reinforce"
    """No ratio and no clip."""
    loss_agg_mode: Aggregation = "seq-mean-token-sum"
    """The log-probability of a rollout is the sum over its units."""
    ppo_epochs: int = 1
    """Passes over each batch; on-policy there can be one only."""
    ppo_mini_batch_size: int = 0
    """Decisions in a gradient step; 0 takes the whole batch, which is what on-policy means."""
