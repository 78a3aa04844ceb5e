"""The Gaussian action head."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vla_rl.functional.density import normal_entropy, normal_logprob
from vla_rl.policies import _noise
from vla_rl.policies._head_config import STD_RANGE, HeadConfig
from vla_rl.policies._mlp import mlp
from vla_rl.policy import Sample


class Gaussian(NamedTuple):
    """A factorised normal law over a chunk: ``mean`` and ``log_std``, both ``[B, K]``."""

    mean: Tensor
    log_std: Tensor


class GaussianHead(nn.Module):
    """A factorised Gaussian over the K = H * A numbers of a chunk, explored with correlated noise.

    With the noise ``e = offset + s * z`` of :mod:`vla_rl.policies._noise` the executed action is
    ``clip(mean + std * e, -1, 1)`` (the mean is not squashed). ``density`` says what is stored in
    ``raw`` and how it is scored:

    * ``"marginal"``: ``raw = mean + std * e``, scored by ``N(raw; mean, std^2)``. This is the law
      of every step by itself. The joint law of the chunk is *not* the product of these, so the
      gradient is biased: it credits a persistent deviation at every step that it lasted, which is
      a larger step along the explored direction.
    * ``"conditional"``: ``raw = mean + std * s * z``, the sample less the displacement
      ``std * offset`` that was known before the step, scored by ``N(raw; mean, (std * s)^2)``. At
      acting this is exactly the law of the sample given the episode's constant and the chunk's
      earlier noise, so the log-probabilities of a chunk sum to its joint log-density given the
      constant. In an update the displacement is a known context that stays what it was.

    With ``rho = episode_share = 0`` the two are equal. Greedy acting (no keys) returns the mean and
    its density.
    """

    scale: Tensor  # [K] deviation of the noise's new part, in units of std
    log_scale: Tensor  # [K] what the density adds to log_std

    def __init__(
        self, config: HeadConfig, context_dim: int, text_dim: int, action_dim: int
    ) -> None:
        super().__init__()
        self.config = config
        self.horizon, self.action_dim = config.chunk, action_dim
        self.units = config.chunk * action_dim
        self.trunk = mlp(context_dim, config.hidden, self.units, gain=0.01)
        self.log_std = nn.Parameter(torch.full((action_dim,), math.log(config.std)))
        self.std_of_text = nn.Linear(text_dim, action_dim) if config.std_by_instruction else None
        if self.std_of_text is not None:
            nn.init.zeros_(self.std_of_text.weight)
            nn.init.zeros_(self.std_of_text.bias)
        steps = _noise.innovation_scale(config.chunk, config.rho, config.episode_share)
        scale = torch.from_numpy(np.repeat(steps, action_dim))
        known = torch.ones_like(scale) if config.density == "marginal" else scale
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("log_scale", known.log(), persistent=False)

    def forward(self, context: Tensor, text: Tensor) -> Gaussian:
        """The law given a context ``[B, D]`` and the instruction ``[B, E]``."""
        log_std = self.log_std.expand(len(context), -1)
        if self.std_of_text is not None:
            # The deviation must not shape what the instruction means to the mean.
            log_std = log_std + self.std_of_text(text.detach())
        log_std = log_std.clamp(math.log(STD_RANGE[0]), math.log(STD_RANGE[1]))
        return Gaussian(self.trunk(context), log_std.repeat(1, self.horizon))

    def sample(self, context: Tensor, text: Tensor, keys: NDArray[np.int64] | None) -> Sample:
        """Act: with the noise of the rows' keys ``[B, 2]``, or greedily without keys."""
        mean, log_std = law = self(context, text)
        raw, executed = mean, mean
        if keys is not None:
            offset, innovation = self._noise(keys, mean.device)
            std = log_std.exp()
            raw = mean + std * self.scale * innovation
            executed = raw + std * offset
            if self.config.density == "marginal":
                raw = executed
        actions = executed.clamp(-1, 1).view(-1, self.horizon, self.action_dim)
        return Sample(raw, actions, self._logprob(law, raw))

    def score(self, context: Tensor, text: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density of ``raw`` ``[B, K]`` and entropy ``[B, K]``, in nats."""
        law = self(context, text)
        return self._logprob(law, raw), normal_entropy(law.log_std + self.log_scale)

    def imitation_loss(
        self,
        context: Tensor,
        text: Tensor,
        actions: Tensor,
        mask: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Mean squared error against ``actions`` ``[B, H, A]`` where ``mask`` ``[B, H]``."""
        law: Gaussian = self(context, text)
        mean = law.mean.view_as(actions)
        weight = mask[..., None].to(mean.dtype)
        error = ((mean - actions).square() * weight).sum()
        return error / (weight.sum() * self.action_dim).clamp(min=1)

    def _logprob(self, law: Gaussian, raw: Tensor) -> Tensor:
        return normal_logprob(raw, law.mean, law.log_std + self.log_scale)

    def _noise(self, keys: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
        config = self.config
        noise = _noise.draw(keys, self.horizon, self.action_dim, config.rho, config.episode_share)
        rows = len(keys)
        return (
            torch.from_numpy(noise.offset.reshape(rows, -1)).to(device),
            torch.from_numpy(noise.innovation.reshape(rows, -1)).to(device),
        )
