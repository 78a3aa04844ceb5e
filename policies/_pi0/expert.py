"""The part of pi0 that denoises a chunk of actions, as an action head with a likelihood."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from transformers import DynamicCache

from vla_rl.action_head import Sample
from vla_rl.policies._heads.config import FlowConfig, HeadConfig, Size
from vla_rl.policies._heads.flow import FlowNoise, FlowSDE, OneStepFlowSDE, beta_times
from vla_rl.policies._heads.whole_chunk import PartOfFlow, WholeChunkFlow, variant
from vla_rl.policies._pi0.prefix import Layout
from vla_rl.policies._vlm.key_value_cache import goes_on_from


class Expert(nn.Module):
    """The velocity of a whole chunk of the model, C steps of M dimensions.

    It counts time as :mod:`vla_rl.functional.flow` does, from noise to action. The model counts the
    other way (t = 1 is noise, and its velocity points there), so t is 1 - tau and the velocity's
    sign is turned here, and nowhere else.

    Args:
        net: A pi0 without its vision-language model.
        layout: Of the prefix in the context ``[B, F + S]``; the padded state comes after it.
    """

    def __init__(self, net: Any, layout: Layout) -> None:
        super().__init__()
        self.net, self.layout = net, layout
        self.chunk: int = net.config.chunk_size
        self.action_dim: int = net.config.max_action_dim
        self.state_dim: int = net.config.max_state_dim
        self.width: int = net.config.dit_config.hidden_size

    def forward(self, context: Tensor, samples: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
        """Velocities ``[B, S, C * M]`` of ``samples``, and the states ``[B, S, C, D]`` behind them.

        All S samples of a row are rows of one batch, which share the keys and values of the prefix;
        ``tau`` is ``[B, S, 1]`` or ``[1, S, 1]``.
        """
        rows, steps, _ = samples.shape

        def repeated(x: Tensor) -> Tensor:
            return x[:, None].expand(-1, steps, *x.shape[1:]).flatten(0, 1)

        mask, pairs = self.layout.unpack(context[:, : -self.state_dim])
        cached = repeated(pairs).unbind(1)
        embedded = self.net.embed_action_time(
            repeated(context[:, -self.state_dim :]),
            samples.reshape(-1, self.chunk, self.action_dim),
            1 - tau[..., 0].expand(rows, steps).flatten(),
        )
        keys_and_values = DynamicCache(zip(cached[::2], cached[1::2], strict=True))
        states = self.net.model(
            action_embeds=embedded,
            attention_mask=repeated(mask),
            **goes_on_from(self.net.model, keys_and_values),
        ).last_hidden_state[:, -self.chunk :]
        velocity = -self.net.action_out_proj(states)
        return velocity.view_as(samples), states.view(rows, steps, self.chunk, self.width)


class _ExpertFlow(WholeChunkFlow):
    """Denoises with the expert."""

    def __init__(self, config: FlowConfig, size: Size, expert: Expert) -> None:
        super().__init__(config, size)
        self.expert = expert

    def predict(self, context: Tensor, samples: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`FlowHead`."""
        found: tuple[Tensor, Tensor] = self.expert(context, samples, tau)
        return found

    def times(self, rows: int, generator: Generator | None) -> Tensor:
        """As the model was pretrained: more of them near the noise."""
        model = self.expert.net.config
        shape = model.time_sampling_beta_alpha, model.time_sampling_beta_beta
        early = beta_times(rows, *shape, generator)
        tau: Tensor = 1 - (model.time_sampling_scale * early + model.time_sampling_offset)
        return tau


class _ExpertSDE(FlowSDE, _ExpertFlow):
    """Flow-SDE with the expert."""


class _OneStepExpertSDE(OneStepFlowSDE, _ExpertFlow):
    """Flow-SDE with one random step."""


class _ExpertNoise(FlowNoise, _ExpertFlow):
    """Flow-Noise: the deviations of a step of the chunk are read off the expert's state of it."""


class ExpertHead(PartOfFlow):
    """The first H steps and A dimensions of the chunks that the model denoises."""

    def __init__(self, config: HeadConfig, expert: Expert, size: Size) -> None:
        made = variant(config, _ExpertSDE, _OneStepExpertSDE, _ExpertNoise)
        whole = size._replace(horizon=expert.chunk, action_dim=expert.action_dim)
        super().__init__(made(config, whole, expert), size.horizon, size.action_dim)

    def sample(self, context: Tensor, text: Tensor, keys: NDArray[np.int64] | None) -> Sample:
        """Act: with the noise of the rows' keys ``[B, 2]``, or greedily without keys."""
        raw, actions, logprob = self.whole.sample(context, text, keys)
        return Sample(raw, self.used(actions), self.used(logprob).flatten(1))

    def imitation_loss(
        self,
        context: Tensor,
        text: Tensor,
        actions: Tensor,
        mask: Tensor,
        generator: Generator | None = None,
    ) -> Tensor:
        """The model's loss towards ``actions`` ``[B, H, A]`` where ``mask`` ``[B, H]``."""
        return self.matched(context, actions, mask, generator)
