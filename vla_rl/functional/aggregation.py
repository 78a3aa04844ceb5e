"""Aggregation of the losses of units to the loss of a batch."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Aggregation = Literal[
    "seq-mean-token-mean", "token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"
]

AGGREGATIONS: tuple[str, ...] = get_args(Aggregation)


def unit_weights(mask: Tensor, mode: Aggregation, loss_scale_factor: float = 1.0) -> Tensor:
    """Weights w such that ``(w * loss).sum()`` is the aggregated loss of the whole batch.

    They are computed from the whole batch, so the losses of its parts sum to the same, however it
    is split. Episodes without any unit (filtered ones) count in no denominator.

    Args:
        mask: ``[N, T, U]`` true for units that count.
        mode: With n_i units in episode i, B episodes and N units in all:

            - ``seq-mean-token-mean``, 1 / (B n_i): GRPO, GSPO, LOOP. The only mode in which long
              failures do not lower probabilities on balance.
            - ``token-mean``, 1 / N: DAPO, CISPO.
            - ``seq-mean-token-sum``, 1 / B: REINFORCE and RLOO on the episode's log-probability.
            - ``seq-mean-token-sum-norm``, 1 / (B ``loss_scale_factor``): Dr. GRPO.

        loss_scale_factor: The constant of the last mode, in units.

    Returns:
        ``[N, T, U]`` float weights, zero where masked.

    Raises:
        ValueError: If the mode is unknown.
    """
    counts = mask.flatten(1).sum(1)
    episodes = float((counts > 0).sum().clamp(min=1))
    units = counts.clamp(min=1).to(torch.float32)
    if mode == "seq-mean-token-mean":
        weight = 1.0 / (episodes * units)
    elif mode == "token-mean":
        weight = torch.full_like(units, 1.0 / float(counts.sum().clamp(min=1)))
    elif mode == "seq-mean-token-sum":
        weight = torch.full_like(units, 1.0 / episodes)
    elif mode == "seq-mean-token-sum-norm":
        weight = torch.full_like(units, 1.0 / (episodes * loss_scale_factor))
    else:
        raise ValueError(f"unknown loss_agg_mode {mode!r}; allowed: {', '.join(AGGREGATIONS)}")
    return weight[:, None, None] * mask
