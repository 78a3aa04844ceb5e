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
    """Centred in the group, whitened over the batch, PPO clip, k2 loss."""

    adv_estimator: Estimator = "reinforce_plus_plus_baseline"
    """Advantage over the group's mean, whitened over the batch."""
    kl_coef: float = 0.001
    """Weight of the divergence from the policy that training started from."""
    kl_placement: KLPlacement = "loss"
    """Where the divergence goes: into the `loss`, into the `reward`, or `none`."""
    kl_estimator: KLEstimator = "k2"
    """`k2`, whose gradient is that of the KL on-policy; or `k1`, `k3`."""
