"""REINFORCE++-baseline: group mean, whitened over the batch (arXiv 2501.03262).

The return minus the group's mean is whitened over the whole batch, because the standard deviation
of a small group is noise that correlates with its returns. PPO's clip; KL with the k2 estimator as
a separate loss. `--algo.adv-estimator reinforce_plus_plus --algo.group-size 1` is the variant
without groups.
"""

from __future__ import annotations

from dataclasses import dataclass

from vla_rl.functional import KLEstimator
from vla_rl.learning.group_relative import Estimator, GroupRelative
from vla_rl.learning.settings import KLPlacement


@dataclass(frozen=True)
class Algorithm(GroupRelative):
    """Advantages centred in the group and whitened over the batch, PPO clip, k2 loss."""

    adv_estimator: Estimator = "reinforce_plus_plus_baseline"
    """Advantage estimator: return minus the group's mean, whitened over the batch."""
    kl_coef: float = 0.001
    """Weight of the KL divergence from the starting policy."""
    kl_placement: KLPlacement = "loss"
    """Where the KL divergence is added: to the `loss`, to the `reward`, or `none`."""
    kl_estimator: KLEstimator = "k2"
    """Estimator of the KL in the loss: `k2`, whose on-policy gradient is unbiased, `k1` or `k3`."""
