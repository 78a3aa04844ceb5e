"""Surrogate losses: what stands in for the expected return while a batch is reused."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from vla_rl.functional.ratio import episode_sum

LossType = Literal["ppo_clip", "cispo", "sapo", "gmpo", "vespo", "reinforce"]

LOSS_TYPES: tuple[str, ...] = get_args(LossType)

SAPO_TEMPERATURE = (1.0, 1.05)  # for positive and negative advantages (arXiv 2511.20347)
VESPO_SHAPE = ((2.0, 3.0), (3.0, 2.0))  # (k, lambda), likewise (arXiv 2602.10693)


class Surrogate(NamedTuple):
    """Unit-wise policy loss and what the clip did.

    Attributes:
        loss: ``[R, U]``, to be minimised; zero where masked.
        clipped: ``[R, U]`` bool, units whose gradient the clip removed or limited.
    """

    loss: Tensor
    clipped: Tensor


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
    """Policy loss of every unit.

    Args:
        loss_type: One of

            - ``ppo_clip``: the pessimistic clipped ratio (PPO, arXiv 1707.06347, eq. 7); with
              ``clip_ratio_c`` > 1 also dual clip (arXiv 1912.09729, eq. 5), which bounds what a
              single unlikely action with negative advantage can do.
            - ``cispo``: the clipped ratio as a weight without gradient (arXiv 2506.13585, eq. 4);
              no unit is ever dropped. ``clip_ratio_low`` >= 1 means no lower bound.
            - ``sapo``: a smooth gate instead of a clip (arXiv 2511.20347).
            - ``gmpo``: geometric mean over the episode of ratios clipped in log space to
              ``[-clip_ratio_low, clip_ratio_high]`` (arXiv 2507.20673).
            - ``vespo``: a smooth function of the whole episode's ratio as weight (2602.10693).
            - ``reinforce``: no ratio at all; right only for the first step on a batch.

        logprob: ``[R, U]`` under the policy being trained, with gradient.
        log_ratio: ``[R, U]`` of the chosen level (:func:`vla_rl.functional.log_ratio`).
        advantage: Broadcastable to ``[R, U]``.
        mask: ``[R, U]`` true for units that count.
        episode: ``[R]``; only ``gmpo`` and ``vespo`` look at it.
        clip_ratio_low: Clip range below a ratio of 1.
        clip_ratio_high: Clip range above a ratio of 1.
        clip_ratio_c: Dual clip, 0 for none.

    Raises:
        ValueError: If the loss type is unknown.
    """
    advantage = advantage.expand_as(logprob)
    never = torch.zeros_like(mask)
    if loss_type == "ppo_clip":
        ratio = log_ratio.exp()
        bounded = ratio.clamp(1 - clip_ratio_low, 1 + clip_ratio_high)
        plain, limited = -advantage * ratio, -advantage * bounded
        loss, clipped = torch.maximum(plain, limited), limited > plain
        if clip_ratio_c > 0:
            ceiling = -advantage * clip_ratio_c
            over = (advantage < 0) & (loss > ceiling)
            loss, clipped = torch.where(over, ceiling, loss), clipped | over
    elif loss_type == "cispo":
        ratio = log_ratio.exp().detach()
        weight = ratio.clamp(1 - clip_ratio_low, 1 + clip_ratio_high)
        loss, clipped = -weight * advantage * logprob, weight != ratio
    elif loss_type == "sapo":
        tau = torch.where(advantage > 0, *SAPO_TEMPERATURE)
        gate = torch.sigmoid(tau * (log_ratio.exp() - 1))
        loss, clipped = -(4 / tau) * gate * advantage, never
    elif loss_type == "gmpo":
        sign = advantage.sign()
        bounded = log_ratio.clamp(-clip_ratio_low, clip_ratio_high)
        limited = sign * torch.minimum(sign * log_ratio, sign * bounded)
        limited = torch.where(mask, limited, torch.zeros_like(limited))
        units = episode_sum(mask.to(limited.dtype), episode).clamp(min=1)
        mean = (episode_sum(limited, episode) / units)[:, None]
        loss, clipped = -advantage * mean.exp(), limited != log_ratio
    elif loss_type == "vespo":
        total = episode_sum(torch.where(mask, log_ratio, torch.zeros_like(log_ratio)), episode)
        total = total[:, None].expand_as(log_ratio).detach()
        (k_up, l_up), (k_down, l_down) = VESPO_SHAPE
        power, rate = (
            torch.where(advantage >= 0, k_up, k_down),
            torch.where(advantage >= 0, l_up, l_down),
        )
        weight = (power * total + rate * (1 - total.exp())).exp()
        loss, clipped = -weight * advantage * logprob, never
    elif loss_type == "reinforce":
        loss, clipped = -advantage * logprob, never
    else:
        raise ValueError(f"unknown loss_type {loss_type!r}; allowed: {', '.join(LOSS_TYPES)}")
    return Surrogate(torch.where(mask, loss, torch.zeros_like(loss)), mask & clipped)


def clipped_value_loss(
    value: Tensor, old_value: Tensor, target: Tensor, cliprange_value: float
) -> Tensor:
    """Squared error of the critic, not rewarded for leaving the old estimate (PPO2).

    ``max((V - R)^2, (clip(V, V_old +- c) - R)^2) / 2`` for every decision.

    Args:
        value: ``[*]`` with gradient.
        old_value: ``[*]`` stored at acting.
        target: ``[*]`` return to fit.
        cliprange_value: c, in units of reward; 0 leaves the plain squared error.
    """
    plain = (value - target).square()
    if cliprange_value == 0:
        return plain / 2
    near = old_value + (value - old_value).clamp(-cliprange_value, cliprange_value)
    return torch.maximum(plain, (near - target).square()) / 2
