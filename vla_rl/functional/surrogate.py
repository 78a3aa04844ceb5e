"""Surrogate losses, which replace the expected return while a batch is reused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from vla_rl.functional.smooth_surrogates import gmpo, sapo, vespo
from vla_rl.functional.units import Surrogate, Units

LossType = Literal["ppo_clip", "cispo", "sapo", "gmpo", "vespo", "reinforce"]

LOSS_TYPES: tuple[str, ...] = get_args(LossType)


def ppo_clip(units: Units) -> Surrogate:
    """The pessimistic clipped ratio (PPO, arXiv 1707.06347, eq. 7).

    A ``ceiling`` above 1 adds the dual clip (arXiv 1912.09729, eq. 5), which bounds the influence
    of a single unlikely action with negative advantage.
    """
    ratio = units.log_ratio.exp()
    bounded = ratio.clamp(1 - units.low, 1 + units.high)
    plain, limited = -units.advantage * ratio, -units.advantage * bounded
    loss, clipped = torch.maximum(plain, limited), limited > plain
    if units.ceiling > 0:
        ceiling = -units.advantage * units.ceiling
        over = (units.advantage < 0) & (loss > ceiling)
        loss, clipped = torch.where(over, ceiling, loss), clipped | over
    return Surrogate(loss, clipped)


def cispo(units: Units) -> Surrogate:
    """The clipped ratio as a weight without gradient (arXiv 2506.13585, eq. 4).

    No unit is ever dropped; ``low`` >= 1 means no lower bound.
    """
    ratio = units.log_ratio.exp().detach()
    weight = ratio.clamp(1 - units.low, 1 + units.high)
    return Surrogate(-weight * units.advantage * units.logprob, weight != ratio)


def reinforce(units: Units) -> Surrogate:
    """No ratio; unbiased only for the first step on a batch."""
    return Surrogate(-units.advantage * units.logprob, units.unclipped)


SURROGATES: dict[str, Callable[[Units], Surrogate]] = {
    "ppo_clip": ppo_clip,
    "cispo": cispo,
    "sapo": sapo,
    "gmpo": gmpo,
    "vespo": vespo,
    "reinforce": reinforce,
}


def surrogate_loss(
    loss_type: LossType,
    logprob: Tensor,
    log_ratio: Tensor,
    advantage: Tensor,
    mask: Tensor,
    episode: Tensor,
    clip_ratio_low: float,
    clip_ratio_high: float,
    clip_ratio_c: float = 0.0,
) -> Surrogate:
    """Compute the policy loss of every unit.

    Args:
        loss_type: A name in ``SURROGATES``, whose functions are documented above.
        logprob: ``[R, U]`` under the policy being trained, with gradient.
        log_ratio: ``[R, U]`` log-ratios at the chosen level (:func:`vla_rl.functional.log_ratio`).
        advantage: Broadcastable to ``[R, U]``.
        mask: ``[R, U]`` true for units that count.
        episode: ``[R]`` index of each row's episode; only ``gmpo`` and ``vespo`` use it.
        clip_ratio_low: Clip range below a ratio of 1.
        clip_ratio_high: Clip range above a ratio of 1.
        clip_ratio_c: Dual clip of ``ppo_clip``; 0 for none.

    Raises:
        ValueError: If the loss type is unknown.
    """
    if loss_type not in SURROGATES:
        raise ValueError(f"unknown loss_type {loss_type!r}; allowed: {', '.join(SURROGATES)}")
    advantage = advantage.expand_as(logprob)
    clips = (clip_ratio_low, clip_ratio_high, clip_ratio_c)
    found = SURROGATES[loss_type](Units(logprob, log_ratio, advantage, mask, episode, *clips))
    loss = torch.where(mask, found.loss, torch.zeros_like(found.loss))
    return Surrogate(loss, mask & found.clipped)
