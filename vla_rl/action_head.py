"""What an action head must do, and what its log-probabilities may claim.

A head explores with noise that may be correlated between the steps of a chunk and between the
decisions of an episode. Its *density* says how much of that its log-probabilities know:

* ``"marginal"``: every unit by itself, as if the noise were independent. Their sum is no density of
  a chunk or of an episode. With noise of covariance C the expected gradient in the means is
  ``C dJ``: a natural-gradient step in mean space, which always goes uphill. Right for ratios per
  token or per action and for baselines that do not depend on the state.
* ``"chunk"``: every step given the earlier ones of its chunk. The sum over the executed steps is
  their joint density, and its gradient is the policy gradient. What persists from one decision to
  the next is averaged over, so decisions are scored as if each were alone.
* ``"decision"``: the same, and it is true that each is alone: nothing persists from one decision to
  the next, because the noise of every decision is drawn anew. The only density that changes how
  the policy acts.
* ``"episode"``: that of a chunk, given besides what stays constant over the episode. The sum over
  all decisions is the density of the episode's actions given that.

Where the noise is independent they are one.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from vla_rl import plugins

DENSITIES = ("marginal", "chunk", "decision", "episode")


class Exactness(NamedTuple):
    """For what log-probabilities are exact.

    Attributes:
        within_chunk: Those of the units of a chunk sum to its joint log-density. Ratios of a whole
            chunk, and gradients of what depends on several of its steps, need it.
        between_decisions: Given what the log-probability is conditioned on, the score of a decision
            has mean zero whatever happened at earlier decisions. Baselines that depend on the
            state, rewards-to-go and ratios of whole episodes need it.
    """

    within_chunk: bool
    between_decisions: bool


class Sample(NamedTuple):
    """What an action head does: ``raw [B, R]``, ``actions [B, H, A]``, ``logprob [B, K]``."""

    raw: Tensor
    actions: Tensor
    logprob: Tensor


class ActionHead(Protocol):
    """From a context ``[B, D]`` and the instruction ``[B, E]`` to a chunk; an ``nn.Module``.

    :class:`HeadBase` keeps what concerns densities for a head whose noise is independent.
    """

    units: int
    density: str

    def sample(self, context: Tensor, text: Tensor, keys: NDArray[np.int64] | None) -> Sample:
        """Draw chunks with the noise of ``keys``, or the preferred ones without keys."""

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
        """How far the head is from ``actions`` ``[B, H, A]`` where ``mask`` ``[B, H]``.

        ``generator`` (on the CPU) draws the noise that some heads imitate with; None is torch's
        global one.
        """

    @property
    def densities(self) -> tuple[str, ...]:
        """Those of ``DENSITIES`` that may be asked for."""

    def use_density(self, name: str) -> None:
        """Act and score by one of ``DENSITIES`` from now on."""

    def exactness(self, density: str | None = None) -> Exactness:
        """For what the log-probabilities of a density (None: of the present one) are exact."""

    def deviations(self) -> list[nn.Parameter]:
        """Parameters that set the size of the exploration noise and nothing else."""

    def deviation(self) -> Tensor | None:
        """Standard deviation of the exploration by action dimension ``[A]``, if that is fixed."""


class HeadBase(nn.Module):
    """An action head with independent noise of a size that it does not learn by itself.

    Its log-probabilities are exact, whatever density is asked for.

    Attributes:
        density: Which of ``DENSITIES`` its log-probabilities are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.density = DENSITIES[0]

    @property
    def densities(self) -> tuple[str, ...]:
        """Those of ``DENSITIES`` that may be asked for."""
        return DENSITIES

    def use_density(self, name: str) -> None:
        """Score by a density from now on.

        Raises:
            ValueError: If there is no such density.
        """
        self.density = known(name)

    def exactness(self, density: str | None = None) -> Exactness:
        """For what the log-probabilities of a density (None: of the present one) are exact.

        Raises:
            ValueError: If there is no such density.
        """
        known(density or self.density)
        return Exactness(within_chunk=True, between_decisions=True)

    def deviations(self) -> list[nn.Parameter]:
        """Parameters that set the size of the exploration noise and nothing else."""
        return []

    def deviation(self) -> Tensor | None:
        """Standard deviation of the exploration by action dimension ``[A]``.

        None where there is no such number, or it depends on what the policy sees.
        """
        return None


def known(density: str) -> str:
    """The name of a density, checked.

    Raises:
        ValueError: If there is none of that name.
    """
    if density not in DENSITIES:
        raise ValueError(plugins.unknown("density", density, DENSITIES))
    return density
