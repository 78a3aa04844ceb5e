"""Importance ratios at the level that an algorithm uses."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

RatioLevel = Literal["token", "action", "chunk", "trajectory", "sequence", "sequence_token"]

RATIO_LEVELS: tuple[str, ...] = get_args(RatioLevel)
EPISODE_LEVELS = ("trajectory", "sequence", "sequence_token")  # need an episode's rows together

LOG_RATIO_LIMIT = 20.0  # exp(20) is finite in float32; beyond it a ratio carries no information


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
    unit = masked_difference(logprob, old_logprob, mask)
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


def episode_sum(values: Tensor, episode: Tensor) -> Tensor:
    """Sum ``[R, U]`` over all units and rows of each episode; ``[R]``, equal within an episode."""
    _, index = torch.unique(episode, return_inverse=True)
    total = torch.zeros(int(index.max()) + 1, dtype=values.dtype)
    return total.index_add(0, index, values.sum(1))[index]


def masked_difference(logprob: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """Difference of log-probs, bounded so that its exponential is finite; 0 where masked."""
    difference = (logprob - other).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return torch.where(mask, difference, torch.zeros_like(difference))
