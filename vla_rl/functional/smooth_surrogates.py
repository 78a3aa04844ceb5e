"""Surrogate losses whose weight is a smooth function of the ratio, or that of a whole episode."""

from __future__ import annotations

import torch

from vla_rl.functional.ratio import episode_sum
from vla_rl.functional.units import Surrogate, Units

SAPO_TEMPERATURE = (1.0, 1.05)  # for positive and negative advantages (arXiv 2511.20347)
VESPO_SHAPE = ((2.0, 3.0), (3.0, 2.0))  # (k, lambda), likewise (arXiv 2602.10693)


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
