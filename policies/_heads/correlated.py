"""What heads with correlated exploration noise have in common: the noise, and its density."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_rl.action_head import DENSITIES, Exactness, HeadBase, Sample, known
from vla_rl.functional.density import copula_logprob
from vla_rl.policies._heads import exploration_noise
from vla_rl.policies._heads.config import AUTO, HeadConfig


class CorrelatedHead(HeadBase, ABC):
    """A head that explores with the noise of :mod:`vla_rl.policies._heads.exploration_noise`.

    Every random number of a chunk has a normal score e, which at acting is the noise. How the
    log-probability of a chunk treats the correlation of its scores is :attr:`density` (see
    :mod:`vla_rl.action_head`). The noise, and so the actions, are the same for all but
    ``"decision"``, under which no part of the noise lasts for an episode. A subclass adds
    :meth:`dependence` to the log-densities of units by themselves, and :meth:`log_width` to their
    entropies. That is the exact density of normal units and, as the noise of others is made by rank
    (a Gaussian copula), of those too; see :mod:`vla_rl.functional.density`.

    To be scored given the episode's constant, a decision has to remember it: ``raw`` ends with it
    where the density is ``"episode"`` and there is one.
    """

    config: HeadConfig
    whitenings: Tensor  # [3, H, H] for each of DENSITIES

    def __init__(self, config: HeadConfig, horizon: int, action_dim: int) -> None:
        super().__init__()
        self.config = config
        self.horizon, self.action_dim = horizon, action_dim
        self.units = horizon * action_dim
        if config.density != AUTO:
            self.density = config.density
        joint = exploration_noise.covariance(horizon, config.rho, config.episode_share)
        anew = exploration_noise.covariance(horizon, config.rho, 0.0)
        laws = (np.eye(horizon), joint, anew, joint - config.episode_share)
        inverses = np.stack([np.linalg.inv(np.linalg.cholesky(law)) for law in laws])
        whitenings = torch.from_numpy(np.tril(inverses).astype(np.float32))
        self.register_buffer("whitenings", whitenings, persistent=False)

    @abstractmethod
    def sample(self, context: Tensor, text: Tensor, keys: NDArray[np.int64] | None) -> Sample:
        """Act: with the noise of the rows' keys ``[B, 2]``, or greedily without keys."""

    @abstractmethod
    def score(self, context: Tensor, text: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density of ``raw`` ``[B, R]`` and entropy, both ``[B, K]`` in nats."""

    @property
    def densities(self) -> tuple[str, ...]:
        """Those of ``DENSITIES`` that may be asked for: all, or the one in the settings."""
        return DENSITIES if self.config.density == AUTO else (self.config.density,)

    def use_density(self, name: str) -> None:
        """Act and score by a density from now on.

        What was sampled before can be scored too, if its ``raw`` and its noise are those that the
        density asks for.

        Raises:
            ValueError: If there is no such density, or the settings ask for another one.
        """
        if self.config.density not in (AUTO, known(name)):
            raise ValueError(
                f"density {name!r} was asked of a policy whose settings fix density "
                f"{self.config.density!r}; one with density {AUTO!r} takes any"
            )
        super().use_density(name)

    def exactness(self, density: str | None = None) -> Exactness:
        """For what the log-probabilities of a density (None: of the present one) are exact."""
        name = known(density or self.density)
        lasting = self.config.episode_share > 0
        single = self.horizon == 1 or not (lasting or self.config.rho > 0)
        return Exactness(
            within_chunk=single or name != "marginal",
            between_decisions=not lasting or name in ("decision", "episode"),
        )

    def noise(
        self, keys: NDArray[np.int64] | None, context: Tensor, draws: int, horizon: int
    ) -> tuple[Tensor, Tensor]:
        """Noise ``[B, draws, horizon * A]`` of B rows, and its constants ``[B, draws, A]``.

        It follows the keys ``[B, 2]``; without keys all is 0.
        """
        rows, size = len(context), self.action_dim
        if keys is None:
            zeros = context.new_zeros(rows, draws, (horizon + 1) * size)
            return zeros[..., :-size], zeros[..., -size:]
        config = self.config
        drawn = exploration_noise.draw(keys, draws, horizon, size, config.rho, self.episode_share)
        whole, constant = (torch.from_numpy(part).to(context.device) for part in drawn)
        return whole, constant

    def recorded(self, sampled: Tensor, constant: Tensor) -> Tensor:
        """``raw``: what was sampled ``[B, R]``, then what else its density depends on."""
        if not self._remembers:
            return sampled
        return torch.cat([sampled, constant.flatten(1)], dim=1)

    def recalled(self, raw: Tensor, size: int, draws: int) -> tuple[Tensor, Tensor]:
        """From ``raw`` to what was sampled ``[B, size]`` and the constants ``[B, draws, A]``.

        Raises:
            ValueError: If ``raw`` was recorded under a density that remembers more or less.
        """
        wanted = size + (draws * self.action_dim if self._remembers else 0)
        if raw.shape[1] != wanted:
            raise ValueError(
                f"decisions hold {raw.shape[1]} numbers, density {self.density!r} needs {wanted}: "
                "score them under the density that they were made under (policy.use_density)"
            )
        if not self._remembers:
            return raw, raw.new_zeros(len(raw), draws, self.action_dim)
        return raw[:, :size], raw[:, size:].view(len(raw), draws, self.action_dim)

    def dependence(self, e: Tensor, constant: Tensor) -> Tensor:
        """What the density adds to the log-densities of single units, ``[B, draws, K]``.

        Args:
            e: ``[B, draws, K]`` normal scores.
            constant: ``[B, draws, A]``; 0 where nothing is remembered.
        """
        steps = e.reshape(*e.shape[:2], self.horizon, self.action_dim)
        mean = math.sqrt(self.episode_share) * constant[..., None, :]
        return copula_logprob(steps, self._whitening, mean).flatten(-2)

    def log_width(self) -> Tensor:
        """What the density adds to the entropies of single units, ``[K]``."""
        return -self._whitening.diagonal().log().repeat_interleave(self.action_dim)

    @property
    def episode_share(self) -> float:
        """Share of the noise's variance that is constant over an episode, under the density."""
        return 0.0 if self.density == "decision" else self.config.episode_share

    @property
    def _whitening(self) -> Tensor:
        return self.whitenings[DENSITIES.index(self.density)]

    @property
    def _remembers(self) -> bool:
        return self.density == "episode" and self.config.episode_share > 0
