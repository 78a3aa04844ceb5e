"""The contract of action heads, and the densities that their log-probabilities can be.

A head explores with noise that may be correlated between the steps of a chunk and between the
decisions of an episode. Its *density* says which of these correlations its log-probabilities
take into account:

* ``"marginal"``: every unit by itself, as if the noise were independent. Their sum is not a density
  of a chunk or of an episode. With noise of covariance C the expected gradient in the means is
  ``C dJ``: a natural-gradient step in mean space, which always goes uphill. Right for ratios per
  token or per action and for baselines that do not depend on the state.
* ``"chunk"``: every step given the earlier ones of its chunk. The sum over the executed steps is
  their joint density, and its gradient is the policy gradient. What persists from one decision to
  the next is integrated out, so decisions are scored as if they were independent.
* ``"decision"``: the same, and decisions really are independent: the noise of every decision is
  drawn anew, so nothing persists from one to the next. The only density that changes how the
  policy acts.
* ``"episode"``: that of a chunk, conditioned also on the noise that stays constant over the
  episode. The sum over all decisions is the density of the episode's actions given that noise.

Where the noise is independent all four are equal.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from vla_rl import plugins

DENSITIES = ("marginal", "chunk", "decision", "episode")


class Exactness(NamedTuple):
    """What the log-probabilities may be used for without bias.

    Attributes:
        within_chunk: Those of the units of a chunk sum to its joint log-density. Ratios of a whole
            chunk, and advantages that depend on several of its steps, need it.
        between_decisions: Given what the log-probability is conditioned on, the score of a decision
            has mean zero whatever happened at earlier decisions. Baselines that depend on the
            state, rewards-to-go and ratios of whole episodes need it.
    """

    within_chunk: bool
    between_decisions: bool


class Sample(NamedTuple):
    """A sampled chunk: ``raw [B, R]``, ``actions [B, H, A]``, ``logprob [B, K]``."""

    raw: Tensor
    actions: Tensor
    logprob: Tensor


class ActionHead(Protocol):
    """Maps a context ``[B, D]`` and the instruction ``[B, E]`` to a chunk; an ``nn.Module``.

    :class:`HeadBase` implements the density methods for a head with independent noise.
    """

    units: int
    density: str

    def sample(self, context: Tensor, text: Tensor, keys: NDArray[np.int64] | None) -> Sample:
        """Sample chunks with noise seeded by ``keys``; without keys return the greedy chunks."""

    def score(self, context: Tensor, text: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy of what was sampled, both ``[B, K]``."""

    def imitation_loss(
        self,
        context: Tensor,
        text: Tensor,
        actions: Tensor,
        mask: Tensor,
        generator: Generator | None = None,
    ) -> Tensor:
        """Scalar loss of imitating ``actions`` ``[B, H, A]`` where ``mask`` ``[B, H]`` is true.

        ``generator`` (on the CPU) draws the noise that some heads need for it; None uses torch's
        global generator.
        """

    @property
    def densities(self) -> tuple[str, ...]:
        """The supported members of ``DENSITIES``."""

    def use_density(self, name: str) -> None:
        """Act and score with one of ``DENSITIES`` from now on."""

    def exactness(self, density: str | None = None) -> Exactness:
        """What the log-probabilities of a density (None: the current one) may be used for."""

    def deviations(self) -> list[nn.Parameter]:
        """Parameters that only set the size of the exploration noise."""

    def deviation(self) -> Tensor | None:
        """Exploration standard deviation of each action dimension ``[A]``, if it is fixed."""


class HeadBase(nn.Module):
    """An action head with independent noise whose size is not a parameter of its own.

    Its log-probabilities are exact under every density.

    Attributes:
        density: Which of ``DENSITIES`` its log-probabilities are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.density = DENSITIES[0]

    @property
    def densities(self) -> tuple[str, ...]:
        """The supported members of ``DENSITIES``."""
        return DENSITIES

    def use_density(self, name: str) -> None:
        """Score with a density from now on.

        Raises:
            ValueError: If there is no such density.
        """
        self.density = known(name)

    def exactness(self, density: str | None = None) -> Exactness:
        """What the log-probabilities of a density (None: the current one) may be used for.

        Raises:
            ValueError: If there is no such density.
        """
        known(density or self.density)
        return Exactness(within_chunk=True, between_decisions=True)

    def deviations(self) -> list[nn.Parameter]:
        """Parameters that only set the size of the exploration noise."""
        return []

    def deviation(self) -> Tensor | None:
        """Exploration standard deviation of each action dimension ``[A]``.

        None where there is none, or where it depends on the observation.
        """
        return None


def known(density: str) -> str:
    """Return the name of a density after checking it.

    Raises:
        ValueError: If there is no density of that name.
    """
    if density not in DENSITIES:
        raise ValueError(plugins.unknown("density", density, DENSITIES))
    return density
