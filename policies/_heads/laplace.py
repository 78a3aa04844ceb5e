"""The Laplace action head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from vla_rl.action_head import Sample
from vla_rl.functional.density import (
    bounded,
    laplace_entropy,
    laplace_logprob,
    laplace_of_normal,
    normal_of_laplace,
)
from vla_rl.policies._heads.config import STD_RANGE, LaplaceConfig, Size
from vla_rl.policies._heads.correlated import CorrelatedHead
from vla_rl.policies._heads.mlp import mlp


class Laplace(NamedTuple):
    """Laplace distributions of the units of a chunk: ``mean`` and ``log_scale``, ``[B, K]``."""

    mean: Tensor
    log_scale: Tensor


class LaplaceHead(CorrelatedHead):
    """A Laplace distribution over the K = H * A numbers of a chunk, for means trained by L1.

    RIPT-VLA (2025, arXiv 2505.17016) gives OpenVLA-OFT's regression head a likelihood this way. A
    second network of the same shape predicts ``log b`` of every unit. Its context is detached, as
    uncertainty must not shape the features. The deviation ``sqrt(2) b`` starts at
    ``std`` and stays in [std, 1]: cloning fits it to the errors on the demonstrations, which get
    so small that nothing would be left to explore with (RIPT-VLA multiplies b by 5 for that).

    Exploration noise is that of :mod:`vla_rl.policies._heads.exploration_noise`, turned into
    Laplace numbers by rank,
    so ``rho`` and ``episode_share`` mean what they mean for the Gaussian head, while every single
    unit is exactly Laplace. For how the log-prob treats the correlation see
    :class:`CorrelatedHead`. Greedy acting (no keys) returns the mean and its density.
    """

    def __init__(self, config: LaplaceConfig, size: Size) -> None:
        super().__init__(config, size.horizon, size.action_dim)
        self.std = config.std
        self.trunk = mlp(size.context_dim, size.hidden, self.units, gain=0.01)
        self.log_scale = scale_network(config.std, size.context_dim, size.hidden, self.units)

    def forward(self, context: Tensor) -> Laplace:
        """The distributions given a context ``[B, D]``."""
        return Laplace(self.trunk(context), self.bounded_scale(self.log_scale(context.detach())))

    def bounded_scale(self, log_scale: Tensor) -> Tensor:
        """``log b`` within its range."""
        low, high = (math.log(std / math.sqrt(2)) for std in (self.std, STD_RANGE[1]))
        return bounded(log_scale, low, high)

    def sample(self, context: Tensor, text: Tensor, keys: NDArray[np.int64] | None) -> Sample:
        """Act: with the noise of the rows' keys ``[B, 2]``, or greedily without keys."""
        law: Laplace = self(context)
        noise, constant = self.noise(keys, context, 1, self.horizon)
        sampled = law.mean + law.log_scale.exp() * laplace_of_normal(noise[:, 0])
        actions = sampled.clamp(-1, 1).view(-1, self.horizon, self.action_dim)
        raw = self.recorded(sampled, constant)
        return Sample(raw, actions, self._logprob(law, raw))

    def score(self, context: Tensor, text: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density of ``raw`` ``[B, R]`` and entropy, both ``[B, K]`` in nats."""
        law: Laplace = self(context)
        return self._logprob(law, raw), laplace_entropy(law.log_scale) + self.log_width()

    def imitation_loss(
        self,
        context: Tensor,
        text: Tensor,
        actions: Tensor,
        mask: Tensor,
        generator: Generator | None = None,
    ) -> Tensor:
        """L1 error of the mean plus the negative log-likelihood of the scale, given that mean.

        Means over the units of ``actions`` ``[B, H, A]`` where ``mask`` ``[B, H]``. The second part
        only moves the scale; it makes the loss negative once the fit is close. Nothing is drawn, so
        ``generator`` is not used.
        """
        law: Laplace = self(context)
        target = actions.flatten(1)
        weight = mask.repeat_interleave(self.action_dim, dim=1).to(target.dtype)
        surprise = -laplace_logprob(target, law.mean.detach(), law.log_scale)
        error = ((law.mean - target).abs() + surprise) * weight
        return error.sum() / weight.sum().clamp(min=1)

    def deviations(self) -> list[nn.Parameter]:
        """The network that predicts ``log b``."""
        return list(self.log_scale.parameters())

    def _logprob(self, law: Laplace, raw: Tensor) -> Tensor:
        sampled, constant = self.recalled(raw, self.units, 1)
        e = normal_of_laplace((sampled - law.mean) * torch.exp(-law.log_scale))
        alone = laplace_logprob(sampled, *law)
        return alone + self.dependence(e[:, None], constant)[:, 0]


def scale_network(std: float, inputs: int, hidden: Sequence[int], outputs: int) -> nn.Sequential:
    """A network that predicts ``log b``, at first about that of the deviation ``std``."""
    made = mlp(inputs, hidden, outputs, gain=0.01)
    start = math.log(std / math.sqrt(2))
    nn.init.constant_(made[-1].bias, start)  # type: ignore[arg-type]
    return made
