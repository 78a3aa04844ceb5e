"""The Laplace action head."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vla_rl.functional.density import laplace_entropy, laplace_logprob, laplace_of_normal
from vla_rl.policies import _noise
from vla_rl.policies._head_config import STD_RANGE, HeadConfig
from vla_rl.policies._mlp import mlp
from vla_rl.policy import Sample

# std = sqrt(2) b, so both heads allow the same deviations.
LOG_SCALE_RANGE = (math.log(STD_RANGE[0] / math.sqrt(2)), math.log(STD_RANGE[1] / math.sqrt(2)))


class Laplace(NamedTuple):
    """A factorised Laplace law over a chunk: ``mean`` and ``log_scale`` (log b), ``[B, K]``."""

    mean: Tensor
    log_scale: Tensor


class LaplaceHead(nn.Module):
    """A factorised Laplace law over the K = H * A numbers of a chunk, for means trained by L1.

    RIPT-VLA (2025, arXiv 2505.17016) gives OpenVLA-OFT's regression head a likelihood this way. A
    second network of the same shape says ``log b`` of every unit. It starts at ``std / sqrt(2)``
    and keeps the deviation ``sqrt(2) b`` in [0.01, 1]; it reads a detached context, as how sure the
    policy is must not shape what it sees. Cloning fits it to the errors on the demonstrations, so
    ``std`` is only where it starts.

    Exploration noise is that of :mod:`vla_rl.policies._noise`, turned into Laplace numbers by rank,
    so ``rho`` and ``episode_share`` mean what they mean for the Gaussian head, while every single
    unit is exactly Laplace. The chunk's joint law is not the product of these ("marginal" density).
    Greedy acting (no keys) returns the mean and its density.
    """

    def __init__(self, config: HeadConfig, context_dim: int, action_dim: int) -> None:
        super().__init__()
        self.config = config
        self.horizon, self.action_dim = config.chunk, action_dim
        self.units = config.chunk * action_dim
        self.trunk = mlp(context_dim, config.hidden, self.units, gain=0.01)
        self.log_scale = mlp(context_dim, config.hidden, self.units, gain=0.01)
        last = self.log_scale[-1]
        nn.init.constant_(last.bias, math.log(config.std / math.sqrt(2)))  # type: ignore[arg-type]

    def forward(self, context: Tensor) -> Laplace:
        """The law given a context ``[B, D]``."""
        log_scale = self.log_scale(context.detach())
        return Laplace(self.trunk(context), log_scale.clamp(*LOG_SCALE_RANGE))

    def sample(self, context: Tensor, text: Tensor, keys: NDArray[np.int64] | None) -> Sample:
        """Act: with the noise of the rows' keys ``[B, 2]``, or greedily without keys."""
        law: Laplace = self(context)
        raw = law.mean
        if keys is not None:
            raw = raw + law.log_scale.exp() * laplace_of_normal(self._noise(keys).to(raw.device))
        actions = raw.clamp(-1, 1).view(-1, self.horizon, self.action_dim)
        return Sample(raw, actions, laplace_logprob(raw, *law))

    def score(self, context: Tensor, text: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density of ``raw`` ``[B, K]`` and entropy ``[B, K]``, in nats."""
        law: Laplace = self(context)
        return laplace_logprob(raw, *law), laplace_entropy(law.log_scale)

    def imitation_loss(
        self,
        context: Tensor,
        text: Tensor,
        actions: Tensor,
        mask: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """L1 error of the mean plus the negative log-likelihood of the scale, which sees that mean.

        Means over the units of ``actions`` ``[B, H, A]`` where ``mask`` ``[B, H]``. The second part
        only moves the scale; it makes the loss negative once the fit is close.
        """
        law: Laplace = self(context)
        target = actions.flatten(1)
        weight = mask.repeat_interleave(self.action_dim, dim=1).to(target.dtype)
        surprise = -laplace_logprob(target, law.mean.detach(), law.log_scale)
        error = ((law.mean - target).abs() + surprise) * weight
        return error.sum() / weight.sum().clamp(min=1)

    def _noise(self, keys: NDArray[np.int64]) -> Tensor:
        config = self.config
        shape = (1, self.horizon, self.action_dim)
        noise = _noise.marginal(keys, *shape, config.rho, config.episode_share)
        return torch.from_numpy(noise[:, 0])
