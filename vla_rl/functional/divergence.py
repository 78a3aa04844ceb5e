"""KL divergences to another policy, and weights that correct for the one that acted."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vla_rl.functional.ratio import masked_difference

KLEstimator = Literal["k1", "k2", "k3"]

K3_LIMIT = 10.0


def divergence(
    logprob: Tensor,
    reference: Tensor,
    mask: Tensor,
    estimator: KLEstimator,
) -> Tensor:
    """Estimate of KL(policy || reference) from samples of the policy (Schulman, 2020).

    ``k1 = log p - log q``; ``k2 = k1^2 / 2``; ``k3 = exp(-k1) + k1 - 1``. As a *loss* the mean of
    k1 has zero expected gradient and that of k3 minimises KL(reference || policy), unless it is
    weighted by the ratio. As a *reward*, k1 is unbiased.

    Args:
        logprob: ``[*]`` under the policy.
        reference: ``[*]`` under the reference.
        mask: ``[*]`` true for units that count.
        estimator: ``k1``, ``k2`` or ``k3`` (clamped to at most 10).

    Returns:
        ``[*]``, zero where masked.

    Raises:
        ValueError: If the estimator is unknown.
    """
    k1 = masked_difference(logprob, reference, mask)
    if estimator == "k1":
        return k1
    if estimator == "k2":
        return k1.square() / 2
    if estimator == "k3":
        return ((-k1).exp() + k1 - 1).clamp(max=K3_LIMIT)
    raise ValueError(f"unknown KL estimator {estimator!r}; allowed: k1, k2, k3")


def importance_weight(
    old_logprob: Tensor, rollout_logprob: Tensor, mask: Tensor, clip_max: float
) -> Tensor:
    """Truncated importance weight of every unit, for rollouts by a different engine (TIS).

    ``min(old / rollout, clip_max)``, where *old* is computed by the learner's network with the
    weights that acted; zero where masked, and without gradient.

    Args:
        old_logprob: ``[*]`` recomputed by the learner.
        rollout_logprob: ``[*]`` stored at acting.
        mask: ``[*]`` true for units that count.
        clip_max: Largest weight.
    """
    weight = masked_difference(old_logprob, rollout_logprob, mask).exp().clamp(max=clip_max)
    return torch.where(mask, weight, torch.zeros_like(weight)).detach()
