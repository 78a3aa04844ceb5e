"""Settings of backbones."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

import torch
import tyro

from vla_rl.plugins import unknown

TIMM, VLM = "timm:", "vlm:"
VLM_TOKENS = ("image", "last", "all")
VLM_PARTS = ("language", "connector", "vision")
ATTENTION = ("auto", "sdpa", "eager", "flash_attention_2")
_VLM_ONLY = ("lora_targets", "attention", "gradient_checkpointing")
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class BackboneConfig:
    """Settings of the backbone; a base class of a policy's ``Config``."""

    vision: str = "conv"
    """Backbone: "conv" (small, from scratch), "timm:MODEL" (for instance
    "timm:vit_small_patch14_dinov2"), or "vlm:MODEL", a vision-language model of transformers by hub
    name or folder (for instance "vlm:HuggingFaceTB/SmolVLM-256M-Instruct")."""
    pretrained: bool = True
    """Start a timm or vision-language backbone from pretrained weights."""
    vision_size: int | None = None
    """Side in pixels to which images are resized; none: 112 for timm, a vision-language model's
    own."""
    vision_layer: int | None = None
    """Which feature map of a timm model (none: the last one of a transformer, the tenth block of
    DINOv2-small, stride 16 of a convolutional network); how many layers of a vision-language
    model's language model are kept, from below (none: all)."""
    lora_rank: int = 0
    """Train a pretrained backbone through low-rank adapters of this rank only; 0: train its
    weights."""
    lora_targets: tuple[str, ...] = ()
    """Names of the linear layers that get adapters, for instance q_proj v_proj; none: all of the
    parts that are trained. Vision-language models only."""
    precision: str = "auto"
    """Arithmetic of the backbone: "float32", "bfloat16", or "auto" (bfloat16 where the processor
    has it). The heads are always float32."""
    vlm_prompt: str = "{images}What should the robot do to {instruction}?"
    """What a vision-language model reads; the instruction before the images lets the image tokens
    of a causal model depend on it."""
    vlm_words: int = 32
    """Tokens that an instruction may have in a vision-language model."""
    vlm_tokens: str = "image"
    """Whose hidden states go on to the token learner: "image" (every image token), "last" (the last
    token of the prompt, which has seen everything) or "all" (both)."""
    vlm_trains: tuple[str, ...] = ("language",)
    """Which parts of a vision-language model are trained where the backbone is: "language",
    "connector" (without adapters), "vision". What a frozen vision tower and connector make of an
    image is computed once."""
    attention: str = "auto"
    """Attention of a vision-language model: "auto", "sdpa", "eager", "flash_attention_2"."""
    gradient_checkpointing: bool = False
    """Compute the activations of a vision-language model again in the backward pass, which saves
    memory and costs about a third of the time."""
    architecture: Annotated[str, tyro.conf.Suppress] = ""
    """Filled in: what the vision-language model is, so that a saved policy needs no hub."""

    def __post_init__(self) -> None:
        check(self)

    def check_use(self) -> None:
        """Refuse changed settings of a vision-language model if the backbone is none.

        Raises:
            ValueError: With the setting.
        """
        if self.vision.startswith(VLM):
            return
        for field in fields(BackboneConfig):
            about_vlm = field.name.startswith("vlm_") or field.name in _VLM_ONLY
            if about_vlm and vars(self)[field.name] != field.default:
                raise ValueError(
                    f"{field.name} {vars(self)[field.name]!r} is a setting of a vision-language "
                    f'model, but the backbone is {self.vision!r}; choose "vlm:MODEL" or leave it '
                    "out"
                )


def check(config: BackboneConfig) -> None:
    """Refuse settings of which no backbone can be made.

    Raises:
        ValueError: If there is no such backbone, or settings do not go together.
    """
    vision = config.vision
    if config.precision not in PRECISIONS:
        raise ValueError(unknown("precision", config.precision, PRECISIONS))
    if config.lora_rank < 0:
        raise ValueError(f"lora_rank {config.lora_rank} is outside the allowed range 0, 1, ...")
    if config.vision_size is not None and config.vision_size < 1:
        raise ValueError(f"vision_size {config.vision_size} is outside the allowed range 1, 2, ...")
    if vision.startswith(TIMM):
        import timm  # seconds, for those who use it

        name = vision.removeprefix(TIMM)
        if not timm.is_model(name):  # a suffix after a dot, naming weights, is not checked
            raise ValueError(unknown("timm model", name, timm.list_models()))
    elif vision.startswith(VLM):
        _check_vlm(config)
    elif vision != "conv":
        raise ValueError(unknown("vision backbone", vision, ("conv", "timm:MODEL", "vlm:MODEL")))
    elif config.lora_rank:
        raise ValueError(
            f'lora_rank {config.lora_rank} needs a pretrained backbone such as "timm:...", '
            'not "conv"'
        )


def _check_vlm(config: BackboneConfig) -> None:
    for name, known in (("vlm_tokens", VLM_TOKENS), ("attention", ATTENTION)):
        if vars(config)[name] not in known:
            raise ValueError(unknown(name, vars(config)[name], known))
    for part in config.vlm_trains:
        if part not in VLM_PARTS:
            raise ValueError(unknown("part of a vision-language model", part, VLM_PARTS))
    if not config.vlm_trains:
        raise ValueError(
            "vlm_trains is empty; to train no part of the backbone, freeze it in training "
            "(--learner.train-vlm False)"
        )
    if config.vlm_words < 1:
        raise ValueError(f"vlm_words {config.vlm_words} is outside the allowed range 1, 2, ...")
    if "{instruction}" not in config.vlm_prompt or config.vlm_prompt.count("{images}") > 1:
        raise ValueError(
            f"vlm_prompt {config.vlm_prompt!r} must hold {{instruction}}, and "
            "{images} at most once"
        )
    if config.lora_targets and not config.lora_rank:
        raise ValueError(f"lora_targets {config.lora_targets} need a lora_rank above 0")


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether a backbone computes in bfloat16; see :class:`BackboneConfig`."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # Only where convolutions have a bfloat16 kernel; elsewhere it is many times slower.
    built: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return built and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
