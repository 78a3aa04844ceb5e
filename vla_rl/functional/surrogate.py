"""Surrogate losses, which replace the expected return while a batch is reused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from vla_rl.functional.ratio import episode_sum

LossType = Literal["ppo_clip", "cispo", "sapo", "gmpo", "vespo", "reinforce"]

LOSS_TYPES: tuple[str, ...] = get_args(LossType)

SAPO_TEMPERATURE = (1.0, 1.05)  # for positive and negative advantages (arXiv 2511.20347)
VESPO_SHAPE = ((2.0, 3.0), (3.0, 2.0))  # (k, lambda), likewise (arXiv 2602.10693)


class Surrogate(NamedTuple):
    """Policy loss of every unit, and which units were clipped.

    Attributes:
        loss: ``[R, U]``, to be minimised; zero where masked.
        clipped: ``[R, U]`` bool, units whose gradient the clip removed or limited.
    """

    loss: Tensor
    clipped: Tensor


class Units(NamedTuple):
    """Inputs of a policy loss.

    Attributes:
        logprob: ``[R, U]`` under the policy being trained, with gradient.
        log_ratio: ``[R, U]`` log-ratios at the chosen level (:func:`vla_rl.functional.log_ratio`).
        advantage: ``[R, U]`` advantages.
        mask: ``[R, U]`` true for units that count.
        episode: ``[R]`` index of each row's episode.
        low: Clip range below a ratio of 1.
        high: Clip range above a ratio of 1.
        ceiling: Dual clip; 0 for none.
    """

    logprob: Tensor
    log_ratio: Tensor
    advantage: Tensor
    mask: Tensor
    episode: Tensor
    low: float
    high: float
    ceiling: float

    @property
    def unclipped(self) -> Tensor:
        """``[R, U]`` false, for losses without a clip."""
        return torch.zeros_like(self.mask)


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


def sapo(units: Units) -> Surrogate:
    """A smooth gate instead of a clip (arXiv 2511.20347)."""
    tau = torch.where(units.advantage > 0, *SAPO_TEMPERATURE)
    gate = torch.sigmoid(tau * (units.log_ratio.exp() - 1))
    return Surrogate(-(4 / tau) * gate * units.advantage, units.unclipped)


def gmpo(units: Units) -> Surrogate:
    """Geometric mean over the episode of ratios clipped in log space (arXiv 2507.20673).

    The range is ``[-low, high]``.
    """
    sign = units.advantage.sign()
    bounded = units.log_ratio.clamp(-units.low, units.high)
    limited = sign * torch.minimum(sign * units.log_ratio, sign * bounded)
    limited = torch.where(units.mask, limited, torch.zeros_like(limited))
    count = episode_sum(units.mask.to(limited.dtype), units.episode).clamp(min=1)
    mean = (episode_sum(limited, units.episode) / count)[:, None]
    return Surrogate(-units.advantage * mean.exp(), limited != units.log_ratio)


def vespo(units: Units) -> Surrogate:
    """A smooth function of the episode's ratio as weight (arXiv 2602.10693)."""
    counted = torch.where(units.mask, units.log_ratio, torch.zeros_like(units.log_ratio))
    total = episode_sum(counted, units.episode)[:, None].expand_as(units.log_ratio).detach()
    (k_up, l_up), (k_down, l_down) = VESPO_SHAPE
    power = torch.where(units.advantage >= 0, k_up, k_down)
    rate = torch.where(units.advantage >= 0, l_up, l_down)
    weight = (power * total + rate * (1 - total.exp())).exp()
    return Surrogate(-weight * units.advantage * units.logprob, units.unclipped)


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


def clipped_value_loss(
    value: Tensor, old_value: Tensor, target: Tensor, cliprange_value: float
) -> Tensor:
    """Squared error of the critic, clipped around the old estimate (PPO2).

    ``max((V - R)^2, (clip(V, V_old +- c) - R)^2) / 2`` for every decision.

    Args:
        value: ``[*]`` with gradient.
        old_value: ``[*]`` stored at acting.
        target: ``[*]`` return to fit.
        cliprange_value: c, in the units of ``value``; 0 for the plain squared error.
    """
    plain = (value - target).square()
    if cliprange_value == 0:
        return plain / 2
    near = old_value + (value - old_value).clamp(-cliprange_value, cliprange_value)
    return torch.maximum(plain, (near - target).square()) / 2
