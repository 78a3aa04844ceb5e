"""The Gaussian action head."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from vla_rl.action_head import Sample
from vla_rl.functional.density import bounded, normal_entropy, normal_logprob
from vla_rl.policies._heads.config import STD_RANGE, GaussianConfig, Size
from vla_rl.policies._heads.correlated import CorrelatedHead
from vla_rl.policies._heads.mlp import mlp

LOG_STD_RANGE = (math.log(STD_RANGE[0]), math.log(STD_RANGE[1]))


class Gaussian(NamedTuple):
    """Normal distributions of the units of a chunk: ``mean`` and ``log_std``, both ``[B, K]``."""

    mean: Tensor
    log_std: Tensor


class GaussianHead(CorrelatedHead):
    """A Gaussian over the K = H * A numbers of a chunk, explored with correlated noise.

    The sample is ``mean + std * e`` with the noise e of
    :mod:`vla_rl.policies._heads.exploration_noise`; its first K
    numbers in ``raw`` are clipped to [-1, 1] for the action (the mean is not squashed). Every unit
    is ``N(mean, std^2)`` by itself; for how the log-prob treats the noise's correlation see
    :class:`CorrelatedHead`. Greedy acting (no keys) returns the mean and its density.
    """

    def __init__(self, config: GaussianConfig, size: Size) -> None:
        super().__init__(config, size.horizon, size.action_dim)
        self.trunk = mlp(size.context_dim, size.hidden, self.units, gain=0.01)
        self.log_std = nn.Parameter(torch.full((size.action_dim,), math.log(config.std)))
        by_instruction = config.std_by_instruction
        self.std_of_text = nn.Linear(size.text_dim, size.action_dim) if by_instruction else None
        if self.std_of_text is not None:
            nn.init.zeros_(self.std_of_text.weight)
            nn.init.zeros_(self.std_of_text.bias)

    def forward(self, context: Tensor, text: Tensor) -> Gaussian:
        """The distributions given a context ``[B, D]`` and the instruction ``[B, E]``."""
        log_std: Tensor = self.log_std
        if self.std_of_text is not None:
            # The deviation must not shape what the instruction means to the mean.
            log_std = log_std + self.std_of_text(text.detach())
        log_std = bounded(log_std, *LOG_STD_RANGE).expand(len(context), -1)
        return Gaussian(self.trunk(context), log_std.repeat(1, self.horizon))

    def sample(self, context: Tensor, text: Tensor, keys: NDArray[np.int64] | None) -> Sample:
        """Act: with the noise of the rows' keys ``[B, 2]``, or greedily without keys."""
        law: Gaussian = self(context, text)
        noise, constant = self.noise(keys, context, 1, self.horizon)
        sampled = law.mean + law.log_std.exp() * noise[:, 0]
        actions = sampled.clamp(-1, 1).view(-1, self.horizon, self.action_dim)
        raw = self.recorded(sampled, constant)
        return Sample(raw, actions, self._logprob(law, raw))

    def score(self, context: Tensor, text: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density of ``raw`` ``[B, R]`` and entropy, both ``[B, K]`` in nats."""
        law: Gaussian = self(context, text)
        return self._logprob(law, raw), normal_entropy(law.log_std) + self.log_width()

    def imitation_loss(
        self,
        context: Tensor,
        text: Tensor,
        actions: Tensor,
        mask: Tensor,
        generator: Generator | None = None,
    ) -> Tensor:
        """Mean squared error against ``actions`` ``[B, H, A]`` where ``mask`` ``[B, H]``.

        It draws nothing, so ``generator`` is not used.
        """
        law: Gaussian = self(context, text)
        mean = law.mean.view_as(actions)
        weight = mask[..., None].to(mean.dtype)
        error = ((mean - actions).square() * weight).sum()
        return error / (weight.sum() * self.action_dim).clamp(min=1)

    def deviations(self) -> list[nn.Parameter]:
        """``log_std``, and what makes it follow the instruction."""
        words = [] if self.std_of_text is None else list(self.std_of_text.parameters())
        return [self.log_std, *words]

    def deviation(self) -> Tensor | None:
        """Standard deviation ``[A]``, unless it follows the instruction."""
        if self.std_of_text is not None:
            return None
        return bounded(self.log_std.detach(), *LOG_STD_RANGE).exp()

    def _logprob(self, law: Gaussian, raw: Tensor) -> Tensor:
        sampled, constant = self.recalled(raw, self.units, 1)
        e = (sampled - law.mean) * torch.exp(-law.log_std)
        alone = normal_logprob(sampled, law.mean, law.log_std)
        return alone + self.dependence(e[:, None], constant)[:, 0]
