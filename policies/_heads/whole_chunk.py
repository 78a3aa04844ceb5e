"""Heads that use part of the chunks of a larger model, whose own network denoises them."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Generator, Tensor, nn

from vla_rl.action_head import Exactness, HeadBase
from vla_rl.policies._heads.config import FlowNoiseConfig, FlowSDEConfig, HeadConfig, Size
from vla_rl.policies._heads.flow import FlowHead


class WholeChunkFlow(FlowHead):
    """A flow over whole chunks whose network is there already.

    Its states come in one part for each step of the chunk.
    """

    def build(self, size: Size) -> None:
        """Only sets the width of the states and their number of parts."""
        self.inputs, self.parts = size.context_dim, self.horizon


def variant(
    config: HeadConfig,
    sde: Callable[..., FlowHead],
    one_step: Callable[..., FlowHead],
    noise: Callable[..., FlowHead],
) -> Callable[..., FlowHead]:
    """The one of three classes that the settings choose."""
    if isinstance(config, FlowNoiseConfig):
        return noise
    is_one = isinstance(config, FlowSDEConfig) and config.stochastic == "one"
    return one_step if is_one else sde


class PartOfFlow(HeadBase):
    """The first H steps and A dimensions of the chunks that a larger flow denoises.

    ``raw`` holds chains of whole chunks, all of whose numbers are random, as the model has no
    others. What is not executed is not scored: it counts as given, as in piRL (2025, arXiv
    2510.25889). In imitation it is unknown: 0 at every time but for the noise, without a loss.
    """

    def __init__(self, whole: FlowHead, horizon: int, action_dim: int) -> None:
        super().__init__()
        self.whole = whole
        self.density = whole.density
        self.horizon, self.action_dim = horizon, action_dim
        self.units = horizon * action_dim

    def score(self, context: Tensor, text: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density of chains ``raw`` and entropy of their noise, both ``[B, K]``, in nats."""
        logprob, entropy = self.whole.score(context, text, raw)
        return self.used(logprob).flatten(1), self.used(entropy).flatten(1)

    def matched(
        self, context: Tensor, actions: Tensor, mask: Tensor, generator: Generator | None
    ) -> Tensor:
        """The model's loss towards ``actions`` ``[B, H, A]`` where ``mask`` ``[B, H]``."""
        whole = self.whole
        room = (0, whole.action_dim - self.action_dim, 0, whole.horizon - self.horizon)
        counted = mask[..., None].expand_as(actions)
        return whole.match(context, F.pad(actions, room), F.pad(counted, room), generator)

    def used(self, units: Tensor) -> Tensor:
        """From numbers of whole chunks to those of what is executed, ``[B, H, A]``."""
        whole = units.view(len(units), self.whole.horizon, self.whole.action_dim)
        return whole[:, : self.horizon, : self.action_dim]

    @property
    def densities(self) -> tuple[str, ...]:
        """See :class:`CorrelatedHead`."""
        return self.whole.densities

    def use_density(self, name: str) -> None:
        """See :class:`CorrelatedHead`."""
        self.whole.use_density(name)
        super().use_density(name)

    def exactness(self, density: str | None = None) -> Exactness:
        """See :class:`CorrelatedHead`."""
        return self.whole.exactness(density)

    def deviations(self) -> list[nn.Parameter]:
        """Those of the flow."""
        return self.whole.deviations()
