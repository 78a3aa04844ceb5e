"""The part of pi0 that reads images and the instruction: once per decision, into a KV cache."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_rl.policies._backbones.config import uses_bfloat16
from vla_rl.policies._pi0.inputs import Reader, Reading, reader
from vla_rl.policies._vlm import network
from vla_rl.policies._vlm.inputs import Description, ImageInputs
from vla_rl.types import Floats

_PROCESSOR = "processor"  # in the folder of a policy


class Layout(NamedTuple):
    """How a prefix lies in one row of numbers: a summary, then for each of L tokens the rest.

    Attributes:
        summary: Numbers for the critic.
        layers: Of the language model, as many as of the action expert.
        heads: Key-value heads of a layer.
        width: Of a head.
    """

    summary: int
    layers: int
    heads: int
    width: int

    def pack(self, summary: Tensor, mask: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        """``[B, F]`` float32 of a summary, a mask ``[B, L]`` and a KV cache."""
        cache = torch.stack([part for pair in pairs for part in pair], dim=1)
        parts = (summary, mask, cache.flatten(1))
        return torch.cat([part.float() for part in parts], dim=1)

    def unpack(self, packed: Tensor) -> tuple[Tensor, Tensor]:
        """Mask ``[B, L]`` and cache ``[B, 2 * layers, heads, L, width]``: K, V, K, V, ..."""
        rest = packed[:, self.summary :]
        each = 2 * self.layers * self.heads * self.width
        length = rest.shape[1] // (1 + each)
        shape = (len(packed), 2 * self.layers, self.heads, length, self.width)
        return rest[:, :length].long(), rest[:, length:].reshape(shape)


class Prefix(nn.Module):
    """PaliGemma, as the model's action expert reads it: keys and values of every layer.

    The critic's summary is the last hidden state, averaged over the tokens of each view and over
    those of the instruction, and normalised: raw ones reach thousands.

    Args:
        vlm: The vision-language model of a pi0.
        about: What it is.
        reading: Where its processor is.
        trains: Parts that are trained, as of :func:`vla_rl.policies._vlm.network.part_of`.
        precision: See :class:`vla_rl.policies._backbones.config.BackboneConfig`.
    """

    def __init__(
        self,
        vlm: Any,
        about: Description,
        reading: Reading,
        trains: Collection[str],
        precision: str,
    ) -> None:
        super().__init__()
        self.net, self.reading = vlm, reading
        self.loaded: Reader | None = None
        self.views, self.length, self.precision = about.views, about.length, precision
        self.trains = frozenset(trains)
        self.inputs = ImageInputs(about)
        text = vlm.config.text_config
        self.width: int = text.hidden_size
        self.layout = Layout(
            summary=(self.views + 1) * self.width,
            layers=text.num_hidden_layers,
            heads=text.num_key_value_heads,
            width=text.head_dim,
        )
        self._adapted = any(network.ADAPTER in name for name, _ in vlm.named_parameters())
        vlm.requires_grad_(False)
        for parameter in self.trainable():
            parameter.requires_grad_(True)

    def trainable(self) -> list[nn.Parameter]:
        """The adapters, or the weights, of the parts that are trained."""
        return network.trainable(self.net, self.trains, self._adapted)

    def encode(self, sentences: Sequence[str]) -> Floats:
        """Ids of the words ``[n, L]``."""
        return self._reader().encode(sentences, self.length)

    def save_reader(self, folder: Path) -> None:
        """The processor, so that a policy without its model can read new sentences."""
        self._reader().save(folder / _PROCESSOR)

    def load_reader(self, folder: Path) -> None:
        """At once, as the folder of a checkpoint may be gone when it is needed."""
        saved = Reading(str(folder / _PROCESSOR), "", self.reading.words)
        self.loaded = Reader(saved)

    @property
    def caches(self) -> bool:
        """Whether what comes before the language model never changes."""
        return self.trains <= {"language"}

    def look(self, images: Tensor) -> Tensor:
        """What vision tower and projector make of ``[B, V, h, w, 3]`` images: ``[B, V * P, C]``."""
        if not self.views:
            return torch.zeros(len(images), 0, self.width, device=images.device)
        pixels = self.inputs(images)["pixel_values"].to(self.net.dtype)
        with self._low(images.device), torch.no_grad() if self.caches else nullcontext():
            found: Tensor = self.net.get_image_features(pixels).pooler_output
        return found.reshape(len(images), -1, found.shape[-1])

    def forward(self, looked: Tensor, ids: Tensor) -> Tensor:
        """The packed prefix ``[B, F]`` of images ``[B, V * P, C]`` and ids of words ``[B, L]``."""
        ids = ids.long()
        real = ids >= 0
        ids, real = (x[:, : int(real.sum(1).max())] for x in (ids.clamp(min=0), real))
        words = self.net.get_input_embeddings()(ids)
        mask = torch.cat([real.new_ones(looked.shape[:2]), real], dim=1).long()
        with self._low(looked.device):
            out = self.net(
                inputs_embeds=torch.cat([looked.to(words.dtype), words], dim=1),
                attention_mask=mask,
                position_ids=mask.cumsum(1) - 1,
                token_type_ids=torch.zeros_like(mask),  # one block: all attend to each other
                use_cache=True,
            )
        # Nothing learns through the summary, so no gradient of zeros need pass the last layer.
        summary = self._summary(out.last_hidden_state.detach().float(), real)
        pairs = [(layer.keys, layer.values) for layer in out.past_key_values.layers]
        return self.layout.pack(summary, mask, pairs)

    def _reader(self) -> Reader:
        return self.loaded or reader(self.reading)

    def _summary(self, states: Tensor, real: Tensor) -> Tensor:
        images = states.shape[1] - real.shape[1]
        seen, words = states[:, :images], states[:, images:]
        weight = real[..., None].to(states.dtype)
        read = (words * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
        shape = (len(seen), self.views, -1, self.width)
        views = seen.view(shape).mean(2) if self.views else seen
        found = torch.cat([views, read], dim=1)
        return F.layer_norm(found, found.shape[-1:]).flatten(1)

    def _low(self, device: torch.device) -> torch.autocast:
        return torch.autocast(
            device.type, torch.bfloat16, enabled=uses_bfloat16(self.precision, device)
        )
