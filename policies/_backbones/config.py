"""Settings of backbones: what each kind has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import tyro
from pydantic import Tag

from vla_rl.config import BY_NAME
from vla_rl.plugins import unknown

VLM_TOKENS = ("image", "last", "all")
VLM_PARTS = ("language", "connector", "vision")
ATTENTION = ("auto", "sdpa", "eager", "flash_attention_2")
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class BackboneConfig:
    """Settings that every backbone has."""

    name: str = ""
    """Backbone: `conv` (small, from scratch), `timm:MODEL` (for instance
    `timm:vit_small_patch14_dinov2`), or `vlm:MODEL`, a vision-language model of transformers by hub
    name or folder (for instance `vlm:HuggingFaceTB/SmolVLM-256M-Instruct`)."""
    precision: str = "auto"
    """Arithmetic of the backbone: `float32`, `bfloat16`, or `auto` (bfloat16 where the processor
    has it). The heads are always float32."""

    def __post_init__(self) -> None:
        check_precision(self.precision)

    @property
    def model(self) -> str:
        """What stands after the colon of the name."""
        return self.name.partition(":")[2]


@dataclass(frozen=True)
class ConvConfig(BackboneConfig):
    """A small convolutional network, trained from scratch."""

    name: str = "conv"


@dataclass(frozen=True)
class TimmConfig(BackboneConfig):
    """An image model of timm."""

    name: str = "timm:vit_small_patch14_dinov2"
    pretrained: bool = True
    """Start from pretrained weights."""
    size: int | None = None
    """Side in pixels to which images are resized; none: 112."""
    layer: int | None = None
    """Which feature map is used; none: the last one of a transformer, the tenth block of
    DINOv2-small, stride 16 of a convolutional network."""
    lora_rank: int = 0
    """Train the backbone through low-rank adapters of this rank only; 0: train its weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self.size)
        check_lora(self.lora_rank)
        import timm  # seconds, for those who use it

        if not timm.is_model(self.model):  # a suffix after a dot, naming weights, is not checked
            raise ValueError(unknown("timm model", self.model, timm.list_models()))


@dataclass(frozen=True)
class VisionLanguageConfig(BackboneConfig):
    """A vision-language model of transformers."""

    name: str = "vlm:embedded"
    pretrained: bool = True
    """Start from pretrained weights."""
    size: int | None = None
    """Side in pixels to which images are resized; none: the model's own."""
    layers: int | None = None
    """How many layers of the language model are kept, from below; none: all."""
    lora_rank: int = 0
    """Train the backbone through low-rank adapters of this rank only; 0: train its weights."""
    lora_targets: tuple[str, ...] = ()
    """Names of the linear layers that get adapters, for instance q_proj v_proj; none: all of the
    parts that are trained."""
    prompt: str = "{images}What should the robot do to {instruction}?"
    """What the model reads; the instruction before the images lets the image tokens of a causal
    model depend on it."""
    words: int = 32
    """Tokens that an instruction may have."""
    trains: tuple[str, ...] = ("language",)
    """Which parts are trained where the backbone is: `language`, `connector` (without adapters),
    `vision`. What a frozen vision tower and connector make of an image is computed once."""
    attention: str = "auto"
    """Implementation of attention: `auto`, `sdpa`, `eager` or `flash_attention_2`."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass, which saves memory and costs about a third of
    the time."""
    architecture: Annotated[str, tyro.conf.Suppress] = ""
    """Filled in: what the model is, so that a saved policy needs no hub."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self.size)
        check_lora(self.lora_rank, self.lora_targets)
        if self.attention not in ATTENTION:
            raise ValueError(unknown("attention", self.attention, ATTENTION))
        check_vlm(self.words, self.trains)
        if "{instruction}" not in self.prompt or self.prompt.count("{images}") > 1:
            raise ValueError(
                f"backbone.prompt {self.prompt!r} must hold {{instruction}}, and "
                "{images} at most once"
            )


@dataclass(frozen=True)
class VLMConfig(VisionLanguageConfig):
    """A vision-language model of transformers whose hidden states are used."""

    tokens: str = "image"
    """Whose hidden states go on to the token learner: `image` (every image token), `last` (the last
    token of the prompt, which has seen everything) or `all` (both)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokens not in VLM_TOKENS:
            raise ValueError(unknown("backbone.tokens", self.tokens, VLM_TOKENS))


AnyBackbone = Annotated[
    Annotated[ConvConfig, Tag("conv")]
    | Annotated[TimmConfig, Tag("timm")]
    | Annotated[VLMConfig, Tag("vlm")],
    BY_NAME,
]
"""Settings of any backbone."""


def check_precision(precision: str) -> None:
    """Refuse an unknown precision."""
    if precision not in PRECISIONS:
        raise ValueError(unknown("precision", precision, PRECISIONS))


def check_size(size: int | None) -> None:
    """Refuse a side of images below one pixel."""
    if size is not None and size < 1:
        raise ValueError(f"backbone.size {size} is outside the allowed range 1, 2, ...")


def check_lora(rank: int, targets: tuple[str, ...] = ()) -> None:
    """Refuse adapters that cannot be made."""
    if rank < 0:
        raise ValueError(f"lora_rank {rank} is outside the allowed range 0, 1, ...")
    if targets and not rank:
        raise ValueError(f"lora_targets {targets} need a lora_rank above 0")


def check_vlm(words: int, trains: tuple[str, ...]) -> None:
    """Refuse a length of instructions, or parts to train, that a vision-language model has not."""
    if words < 1:
        raise ValueError(f"words {words} is outside the allowed range 1, 2, ...")
    for part in trains:
        if part not in VLM_PARTS:
            raise ValueError(unknown("part of a vision-language model", part, VLM_PARTS))
    if not trains:
        raise ValueError(
            "trains is empty; to train no part of the vision-language model, freeze it in training "
            "(--learner.train-vlm False)"
        )


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether a backbone computes in bfloat16; see :class:`BackboneConfig`."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # Only where convolutions have a bfloat16 kernel; elsewhere it is many times slower.
    built: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return built and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
