"""Any transformers image-text-to-text model as a backbone: hidden states of images and a prompt.

The instruction reaches the network as token ids that were made once (:mod:`._vlm_inputs`). What the
vision tower and the connector make of the images is kept while they are frozen, so that updates of
the language model start from there; while everything is frozen the hidden states are kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput

from vla_rl.policies._backbones.backbone import Backbone, Grid
from vla_rl.policies._backbones.config import VisionLanguageConfig, VLMConfig
from vla_rl.policies._vlm import embedded, network
from vla_rl.policies._vlm.inputs import Description, ImageInputs, Prompter
from vla_rl.policies._vlm.prefix import Prefixes
from vla_rl.types import Floats, Spaces

_PROCESSOR = "processor"  # in the folder of a policy


class _Field(NamedTuple):
    """One tensor that the language model reads, of one observation."""

    pieces: int  # length of the list that the model wants, 0 if it wants one tensor
    shape: torch.Size  # of a piece, or of the tensor


@dataclass
class _Looked(ModelOutput):  # type: ignore[misc]  # transformers has no types
    """What the language model reads of a vision tower's output."""

    pooler_output: Any = None
    deepstack_features: Any = None


class _Reading(NamedTuple):
    """How sentences become prompts; see :class:`Prompter`."""

    source: str
    prompt: str
    words: int
    size: int | None


@lru_cache(maxsize=4)
def _prompter(reading: _Reading) -> Prompter:
    return Prompter(embedded.find(reading.source), reading.prompt, reading.words, reading.size)


def describe(config: VisionLanguageConfig, spaces: Spaces) -> str:
    """What a model is, as the text of ``config.architecture``.

    Raises:
        ValueError: If there is no such model, or it does not support the settings.
    """
    return _prompter(_reading(config)).describe(spaces).to_json()


def plain_words(config: VisionLanguageConfig) -> list[int]:
    """Ids of a model's tokens that are no special ones, ascending.

    Raises:
        ValueError: If there is no such model.
    """
    return _prompter(_reading(config)).plain_words()


def _reading(config: VisionLanguageConfig) -> _Reading:
    return _Reading(config.model, config.prompt, config.words, config.size)


class VLMBackbone(Backbone):
    """Hidden states of a vision-language model's tokens."""

    def __init__(
        self, config: VisionLanguageConfig, spaces: Spaces, words: Sequence[int] = ()
    ) -> None:
        """Make the network of ``config.architecture``, with output embeddings of ``words`` only."""
        super().__init__(config.precision)
        self.about = about = Description.from_json(config.architecture)
        self.kind = config.tokens if isinstance(config, VLMConfig) else "image"
        self.reading = _reading(config)
        self.prompter: Prompter | None = None
        self.spaces = spaces
        self.prompt = len(about.text_inputs) * about.length
        self.trains = network.trained_parts(config, about)
        self.adapted = bool(config.lora_rank)
        self.checkpointing = config.gradient_checkpointing
        self.inputs = ImageInputs(about)
        self.net: Any = network.make(config, about, words)
        self.by_hand = self.net.config.is_encoder_decoder or self.net.base_model is self.net
        known = inspect.signature(self.net.base_model.forward).parameters
        if not self.by_hand and "mm_encoder_outputs" not in known:
            raise ValueError(
                f"transformers {transformers.__version__} cannot go on from image features that "
                f"were made before ({self.net.config.model_type}): install transformers>=5.23"
            )
        for parameter in self.trainable():
            parameter.data = parameter.data.float()  # small steps vanish in bfloat16
            parameter.requires_grad_(True)
        self.prefixes = Prefixes(self.net, about.image_token)
        self._takes = frozenset(inspect.signature(self.net.get_image_features).parameters)
        self._fields = self._layout()
        views, channels = about.views, self.net.config.get_text_config().hidden_size
        self.grid = {
            "image": Grid(views, about.image_tokens // views, channels),
            "last": Grid(1, 1, channels),
            "all": Grid(1, about.image_tokens + 1, channels),
        }[self.kind]
        self.train(False)

    # ------------------------------------------------------------------------------ the contract

    def tokens(self, images: Tensor, prompt: Tensor) -> Tensor:
        """See :class:`Backbone`."""
        return self._read(self._look(images), prompt)

    def frozen_tokens(self, images: Tensor, prompt: Tensor) -> Tensor:
        """See :class:`Backbone`; the beginnings of prompts are read once."""
        inputs = self._text(prompt)
        if not self.prefixes.serves(inputs):
            return super().frozen_tokens(images, prompt)
        kept = self.cache_features(images)
        with self.low(images.device):
            states = self.prefixes.states(inputs, lambda rows: self._restored(kept[rows]))
            return self._chosen(states, inputs)

    @property
    def caches(self) -> bool:
        """Whether what comes before the language model never changes."""
        return self.trains <= {"language"}

    def cache_features(self, images: Tensor) -> Tensor:
        """What the vision tower and the connector make of images, ``[B, F]``."""
        with self.low(images.device):
            looked = self._look(images)
        values = _tensors(looked)
        whole = [
            value if isinstance(value, Tensor) else torch.stack(list(value)) for value in values
        ]
        return torch.cat([value.reshape(len(images), -1) for value in whole], dim=1)

    def from_cache(self, kept: Tensor, prompt: Tensor) -> Tensor:
        """Tokens ``[B, V, P, C]`` from what was kept."""
        with self.low(kept.device):
            return self._read(self._restored(kept), prompt)

    def encode(self, sentences: Sequence[str]) -> Floats:
        """Token ids and their companions ``[n, L]``."""
        return self._reader().encode(sentences, self.about, self.spaces)

    def save_reader(self, folder: Path) -> None:
        """The processor, so that a policy without its model can read new sentences."""
        self._reader().save(folder / _PROCESSOR)

    def load_reader(self, folder: Path) -> None:
        """At once, as the folder of a checkpoint may be gone when it is needed."""
        self.prompter = Prompter(str(folder / _PROCESSOR), *self.reading[1:])

    def trainable(self) -> list[nn.Parameter]:
        """The adapters, or the weights, of the parts that are trained."""
        return network.trainable(self.net, self.trains, self.adapted)

    def train(self, mode: bool = True) -> VLMBackbone:
        """Evaluation mode; layers recompute their activations only if they think they train.

        Their dropout is off all the same: it is set to zero in the settings.
        """
        super().train(False)
        if self.checkpointing:
            for module in self.net.modules():
                if isinstance(module, GradientCheckpointingLayer):
                    module.training = True
        return self

    # ------------------------------------------------------------------------------------ inside

    def _reader(self) -> Prompter:
        return self.prompter or _prompter(self.reading)

    def _look(self, images: Tensor) -> Any:
        """What the vision tower and the connector make of ``[B, V, h, w, 3]`` images."""
        given = {k: v for k, v in self.inputs(images).items() if k in self._takes}
        given["pixel_values"] = given["pixel_values"].to(self.net.dtype)
        with torch.no_grad() if self.caches else nullcontext():
            return self.net.get_image_features(**given, return_dict=True)

    def _read(self, looked: Any, prompt: Tensor) -> Tensor:
        """Tokens ``[B, V, P, C]`` from image features and prompts."""
        inputs = self._text(prompt)
        return self._chosen(self._states(looked, inputs), inputs)

    def _chosen(self, states: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """The wanted ones of hidden states ``[B, L, C]``, normalised: raw ones reach thousands."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        chosen = []
        if self.kind != "last":
            seen = states[ids == self.about.image_token]
            chosen.append(seen.view(len(ids), -1, states.shape[-1]))
        if self.kind != "image":
            rows = torch.arange(len(ids), device=ids.device)
            chosen.append(states[rows, mask.sum(1) - 1][:, None])
        found = torch.cat(chosen, dim=1).float()
        return F.layer_norm(found, found.shape[-1:]).view(len(ids), *self.grid)

    def _states(self, looked: Any, inputs: dict[str, Tensor]) -> Tensor:
        """Hidden states ``[B, L, C]`` of the language model's last layer."""
        if self.by_hand:
            return self._merged(looked, inputs)
        found: Tensor = self.decoded(looked, inputs, use_cache=False).last_hidden_state
        return found

    def decoded(self, looked: Any, inputs: dict[str, Tensor], use_cache: bool) -> Any:
        """What the language model makes of B prompts and their images, if it is one stack."""
        rows = len(inputs["input_ids"])
        shared = {
            name: torch.tensor(value, device=inputs["input_ids"].device).repeat(rows, 1)
            for name, value in self.about.constants.items()
        }
        return self.net.base_model(
            **inputs, **shared, mm_encoder_outputs={"image": looked}, use_cache=use_cache
        )

    def _merged(self, looked: Any, inputs: dict[str, Tensor]) -> Tensor:
        """For families whose base model is no single stack of layers: put the images in by hand."""
        ids = inputs["input_ids"]
        embeds = self.net.get_input_embeddings()(ids)
        spots = (ids == self.about.image_token)[..., None]
        embeds = embeds.masked_scatter(spots, looked.pooler_output.to(embeds.dtype))
        given = {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}
        if self.net.config.is_encoder_decoder:
            found: Tensor = self.net.get_encoder()(**given).last_hidden_state
        else:
            stack = self.net.language_model.get_decoder()
            found = stack(**given, use_cache=False).last_hidden_state
        return found

    def _text(self, prompt: Tensor) -> dict[str, Tensor]:
        """The tensors of B sentences ``[B, L]``, no longer than the longest of them."""
        split = prompt.long().view(len(prompt), len(self.about.text_inputs), self.about.length)
        inputs = dict(zip(self.about.text_inputs, split.unbind(1), strict=True))
        longest = int(inputs["attention_mask"].sum(1).max())
        return {name: value[:, :longest] for name, value in inputs.items()}

    def _layout(self) -> list[_Field]:
        """Shapes of the tensors of one observation, found by a trial."""
        size = self.about.image_size
        blank = torch.zeros(1, self.about.cameras, size, size, 3, dtype=torch.uint8)
        with torch.no_grad(), self.low(blank.device):
            looked = self._look(blank)
        fields = []
        for value in _tensors(looked):
            if isinstance(value, Tensor):
                fields.append(_Field(0, value.shape))
            else:
                fields.append(_Field(len(value), value[0].shape))
        return fields

    def _restored(self, kept: Tensor) -> Any:
        """The reverse of :meth:`cache_features`."""
        rows, start = len(kept), 0
        values: list[Any] = []
        for field in self._fields:
            size = max(field.pieces, 1) * field.shape.numel()
            part = kept[:, start : start + size].to(self.net.dtype)
            start += size
            if field.pieces:
                values.append(part.reshape(rows * field.pieces, *field.shape).unbind(0))
            else:
                values.append(part.reshape(rows * field.shape[0], *field.shape[1:]))
        return _Looked(pooler_output=values[0], deepstack_features=values[1:] or None)


def _tensors(looked: Any) -> list[Any]:
    """What the language model reads of a vision tower's output: tensors, or lists of them."""
    return [looked.pooler_output, *looked.get("deepstack_features", ())]
