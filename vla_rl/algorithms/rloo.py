"""RLOO: REINFORCE with a leave-one-out baseline (arXiv 2402.14740).

The whole rollout is one action: its log-probability, the sum over all units, is weighted by its
return minus the mean of the others. Strictly on-policy: one gradient step per batch, no ratio, no
clip. The paper's KL (k1 in the reward, 0.03 to 0.1) is `--algo.kl-coef 0.03 --algo.kl-placement
reward`; it is off here because it guards against exploiting a learned reward model.
"""

from __future__ import annotations

from dataclasses import dataclass

from vla_rl.functional import Aggregation, LossType
from vla_rl.learning.group_relative import Estimator, GroupRelative


@dataclass(frozen=True)
class Algorithm(GroupRelative):
    """Leave-one-out REINFORCE on whole rollouts."""

    adv_estimator: Estimator = "rloo"
    """Advantage estimator: return minus the mean of the other rollouts of the group."""
    loss_type: LossType = "reinforce"
    """Surrogate loss: REINFORCE, without ratio and clip."""
    loss_agg_mode: Aggregation = "seq-mean-token-sum"
    """Aggregation: the log-probability of a rollout is the sum over its units."""
    ppo_epochs: int = 1
    """Passes over each batch; only 1 is on-policy."""
    ppo_mini_batch_size: int = 0
    """Decisions per gradient step; 0, the whole batch, is the only on-policy choice."""
