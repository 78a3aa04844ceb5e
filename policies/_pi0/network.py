"""The network of pi0: made, loaded, checked, adapted, and taken apart."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn

from vla_rl.policies._backbones.config import uses_bfloat16
from vla_rl.policies._pi0 import inputs
from vla_rl.policies._vlm import network as vlm_network
from vla_rl.policies._vlm.inputs import Description
from vla_rl.types import Spaces


class Parts(NamedTuple):
    """A vision-language model, and the rest of a pi0: action expert and projections."""

    vlm: Any
    rest: Any


class Adapters(NamedTuple):
    """Rank of the adapters (0: none) and the last names of the layers that get one (none: all)."""

    rank: int
    layers: Collection[str]


def check_room(about: Description, spaces: Spaces, chunk: int) -> None:
    """Refuse what a model has no room for.

    Raises:
        ValueError: If actions, states or chunks are larger than the model's.
    """
    for what, wanted, name in (
        ("actions of {} dimensions", spaces.action_dim, "max_action_dim"),
        ("proprioception of {} dimensions", spaces.state_dim, "max_state_dim"),
        ("a chunk of {} actions", chunk, "chunk_size"),
    ):
        most = about.config[name]
        if wanted > most:
            raise ValueError(
                f"{what.format(wanted)} does not fit this pi0, whose {name} is {most}: choose "
                + ("a shorter chunk" if name == "chunk_size" else "a model with more room")
            )


def make(
    source: str | None,
    about: Description,
    trains: Collection[str],
    adapters: Adapters,
    precision: str,
) -> Parts:
    """A pi0 in two parts.

    Args:
        source: Hub name or folder of the weights; ``None`` starts at random.
        about: What model.
        trains: Parts of the vision-language model that are trained.
        adapters: Of the vision-language model.
        precision: See :class:`vla_rl.policies._backbones.config.BackboneConfig`.

    Raises:
        ValueError: If the model cannot be made so.
    """
    inputs.check_version()
    network, kind = about.network_config(), transformers.PI0ForConditionalGeneration
    net: Any
    try:
        if source is None:
            net = kind(network)
        else:
            net = kind.from_pretrained(source, config=network, dtype=torch.float32)
    except (ImportError, OSError, ValueError) as error:
        raise ValueError(f"pi0 {source!r} cannot be made: {error}") from error
    net = net.float().eval()
    net.model.dit.set_input_embeddings(nn.Identity())  # the expert reads no words
    vlm = net.model.vlm
    del net.model.vlm
    if adapters.rank:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if uses_bfloat16(precision, device):
            vlm.to(torch.bfloat16)  # adapters have float32 weights of their own
            if "connector" in trains:
                vlm.multi_modal_projector.float()
        vlm_network.add_lora(vlm, trains, *adapters)
    return Parts(vlm, net)
