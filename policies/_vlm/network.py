"""The network of a vision-language model: made, loaded, cut, frozen, adapted."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import nn

from vla_rl.policies._backbones.config import VisionLanguageConfig, uses_bfloat16
from vla_rl.policies._vlm import embedded
from vla_rl.policies._vlm.inputs import Description

ADAPTER = "lora_"
_LANGUAGE = ("language_model", "text_model", "lm_head")
_VISION = ("vision_tower", "vision_model", "visual")


def part_of(name: str) -> str:
    """Which of "language", "vision" and "connector" a parameter or module belongs to."""
    steps = name.split(".")
    if any(step in _VISION for step in steps):
        return "vision"
    return "language" if any(step in _LANGUAGE for step in steps) else "connector"


def trained_parts(config: VisionLanguageConfig, about: Description) -> frozenset[str]:
    """The parts that are trained where the backbone is: also those that have learned nothing."""
    return frozenset(config.trains) | frozenset(about.config.get(embedded.UNTRAINED, ()))


def make(config: VisionLanguageConfig, about: Description, words: Sequence[int] = ()) -> Any:
    """A transformers model with everything frozen but the adapters, if there are any.

    Args:
        config: Which layers, precision, attention, adapters.
        about: What model.
        words: Tokens whose rows the output embeddings keep, in this order, as a float32 layer; the
            others go.

    Raises:
        ValueError: If the model cannot be made so.
    """
    network = about.network_config()
    _keep_layers(network, config.layers)
    # Adapters keep float32 weights of their own; weights that are trained themselves need them.
    low = config.lora_rank and uses_bfloat16(config.precision, _device())
    settings: dict[str, Any] = {"dtype": torch.bfloat16 if low else torch.float32}
    if config.attention != "auto":
        settings["attn_implementation"] = config.attention
    kind = transformers.AutoModelForImageTextToText
    try:
        if config.pretrained:
            with _quietly():  # what was cut off is reported as not used
                net = kind.from_pretrained(embedded.find(config.model), config=network, **settings)
        else:
            net = kind.from_config(network, **settings)
    except (ImportError, OSError, ValueError) as error:
        raise ValueError(f"{config.model!r} cannot be made: {error}") from error
    # Few callers ask for words, and none for all of them.
    net.set_output_embeddings(_rows(net.get_output_embeddings(), words) if words else nn.Identity())
    if net.config.is_encoder_decoder:
        net.base_model.language_model.decoder = nn.Identity()
    net.requires_grad_(False)
    if config.lora_rank:
        add_lora(net, trained_parts(config, about), config.lora_rank, config.lora_targets)
    if config.gradient_checkpointing:
        net.activation_checkpointing_enable()
    return net.eval()


def _rows(head: nn.Linear, words: Sequence[int]) -> nn.Linear:
    """The same map to fewer outputs."""
    chosen = nn.Linear(head.in_features, len(words), bias=head.bias is not None)
    with torch.no_grad():
        chosen.weight.copy_(head.weight[list(words)])
        if head.bias is not None:
            chosen.bias.copy_(head.bias[list(words)])
    return chosen


def _keep_layers(network: Any, layers: int | None) -> None:
    """Ask for the lowest layers of the language model only; the others are never made."""
    if layers is None:
        return
    text = network.get_text_config()
    if not 1 <= layers <= text.num_hidden_layers:
        raise ValueError(
            f"layers {layers} is outside the allowed range 1, ..., {text.num_hidden_layers}, "
            "the layers of the language model"
        )
    text.num_hidden_layers = layers
    types = text.to_dict().get("layer_types")
    if types:
        text.layer_types = types[:layers]


def add_lora(net: nn.Module, trains: Collection[str], rank: int, wanted: Collection[str]) -> None:
    """Give the linear layers of the trained parts low-rank adapters; a connector needs none.

    Args:
        net: The network, changed in place.
        trains: Parts, as of :func:`part_of`.
        rank: Of the adapters.
        wanted: Last names of the layers that get one; none: all.

    Raises:
        ValueError: If no layer is called so.
    """
    import peft  # seconds, for those who use it

    linear = [
        name
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear)
        and part_of(name) in set(trains) - {"connector"}
        and "lm_head" not in name
    ]
    targets = [n for n in linear if not wanted or n.rpartition(".")[2] in wanted]
    if not targets:
        names = sorted({name.rpartition(".")[2] for name in linear})
        raise ValueError(f"lora_targets {wanted} match no layer; there are {', '.join(names)}")
    settings = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    peft.inject_adapter_in_model(settings, net)
    for name, parameter in net.named_parameters():
        if ADAPTER in name:  # made in the layer's own precision, where small steps would be lost
            parameter.data = parameter.data.float()


def trainable(net: nn.Module, trains: Collection[str], adapted: bool) -> list[nn.Parameter]:
    """The weights of the parts that are trained, or their adapters where they were given some."""

    def is_trained(name: str) -> bool:
        part = part_of(name)
        return ADAPTER in name if adapted and part != "connector" else part in trains

    return [value for name, value in net.named_parameters() if is_trained(name)]


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def _quietly() -> Iterator[None]:
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
