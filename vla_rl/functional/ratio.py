"""Importance ratios at the level that an algorithm uses, and KL divergences."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

RatioLevel = Literal["token", "action", "chunk", "trajectory", "sequence", "sequence_token"]
KLEstimator = Literal["k1", "k2", "k3"]

RATIO_LEVELS: tuple[str, ...] = get_args(RatioLevel)
EPISODE_LEVELS = ("trajectory", "sequence", "sequence_token")  # need an episode's rows together

LOG_RATIO_LIMIT = 20.0  # exp(20) is finite in float32; beyond it a ratio carries no information
K3_LIMIT = 10.0


def at_level(
    logprob: Tensor, mask: Tensor, horizon: int, level: RatioLevel
) -> tuple[Tensor, Tensor]:
    """Sum log-probs of single units to the units of a level.

    Args:
        logprob: ``[*, K]`` log-probs of single units.
        mask: ``[*, K]`` true for executed units.
        horizon: H; ``K`` is a multiple of it.
        level: ``action`` sums the units of one low-level action (``[*, H]``), ``chunk`` sums a
            whole decision (``[*, 1]``); every other level keeps the K units.

    Returns:
        Log-probs and mask at that level; an action counts if any of its units was executed.

    Raises:
        ValueError: If the level is unknown.
    """
    if level not in RATIO_LEVELS:
        raise ValueError(f"unknown ratio level {level!r}; allowed: {', '.join(RATIO_LEVELS)}")
    masked = torch.where(mask, logprob, torch.zeros_like(logprob))
    if level == "action":
        shape = (*logprob.shape[:-1], horizon, logprob.shape[-1] // horizon)
        return masked.reshape(shape).sum(-1), mask.reshape(shape).any(-1)
    if level == "chunk":
        return masked.sum(-1, keepdim=True), mask.any(-1, keepdim=True)
    return masked, mask


def log_ratio(
    logprob: Tensor, old_logprob: Tensor, mask: Tensor, level: RatioLevel, episode: Tensor
) -> Tensor:
    """Log of the importance ratio of every unit.

    ``token``, ``action`` and ``chunk`` have one ratio per unit (after :func:`at_level`). The others
    have one per episode, which all of its units share: ``trajectory`` is the product of the ratios
    of units (TRL's RLOO), ``sequence`` their geometric mean (GSPO, arXiv 2507.18071, eq. 7), and
    ``sequence_token`` has that value with the gradient of each unit alone (GSPO-token, eq. 14).

    Args:
        logprob: ``[R, U]`` under the policy being trained, with gradient.
        old_logprob: ``[R, U]`` stored at acting.
        mask: ``[R, U]`` true for units that count.
        level: One of ``RATIO_LEVELS``, see above.
        episode: ``[R]`` integer; an episode level needs all rows of each episode.

    Returns:
        ``[R, U]``, clamped to +-20; zero for masked units of unit levels.
    """
    unit = _difference(logprob, old_logprob, mask)
    if level not in EPISODE_LEVELS:
        return unit
    total = episode_sum(unit, episode)
    if level == "trajectory":
        return total.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)[:, None].expand_as(unit)
    mean = total / episode_sum(mask.to(unit.dtype), episode).clamp(min=1)
    shared = mean[:, None].expand_as(unit)
    if level == "sequence":
        return shared
    return shared.detach() + unit - unit.detach()


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
    k1 = _difference(logprob, reference, mask)
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
    weight = _difference(old_logprob, rollout_logprob, mask).exp().clamp(max=clip_max)
    return torch.where(mask, weight, torch.zeros_like(weight)).detach()


def episode_sum(values: Tensor, episode: Tensor) -> Tensor:
    """Sum ``[R, U]`` over all units and rows of each episode; ``[R]``, equal within an episode."""
    _, index = torch.unique(episode, return_inverse=True)
    total = torch.zeros(int(index.max()) + 1, dtype=values.dtype)
    return total.index_add(0, index, values.sum(1))[index]


def _difference(logprob: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    difference = (logprob - other).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return torch.where(mask, difference, torch.zeros_like(difference))
