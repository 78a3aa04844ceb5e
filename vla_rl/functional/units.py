"""Inputs and outputs of a policy loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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
