"""pi0 of transformers: PaliGemma and an action expert that denoises chunks, with a likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import tyro
from pydantic import Tag
from torch import Tensor, nn

from vla_rl.config import BY_NAME
from vla_rl.policies._backbones.config import check_lora, check_precision, check_vlm
from vla_rl.policies._flat_settings import regrouped
from vla_rl.policies._heads.config import FlowNoiseConfig, FlowSDEConfig, Size, check_network
from vla_rl.policies._heads.mlp import mlp
from vla_rl.policies._pretrained import PretrainedPolicy
from vla_rl.types import Floats, Spaces


@dataclass(frozen=True)
class ExpertSDEConfig(FlowSDEConfig):
    """Noise of a given size in the denoising of the action expert.

    pi0 was pretrained with independent noise, so chains from other noise are new to it.
    """

    rho: float = 0.0
    episode_share: float = 0.0
    noise_level: float = 0.5  # piRL's, which found 0.2 unstable for pi0


@dataclass(frozen=True)
class ExpertNoiseConfig(FlowNoiseConfig):
    """Noise of a learned size in the denoising of the action expert; see ExpertSDEConfig."""

    rho: float = 0.0
    episode_share: float = 0.0
    noise_std: tuple[float, float] = (0.08, 0.16)  # piRL's


ExpertHeadConfig = Annotated[
    Annotated[ExpertSDEConfig, Tag("flow_sde")] | Annotated[ExpertNoiseConfig, Tag("flow_noise")],
    BY_NAME,
]


@dataclass(frozen=True)
class Config:
    """Settings of the policy pi0."""

    head: ExpertHeadConfig = field(default_factory=ExpertSDEConfig)
    """How the denoising of the action expert is random: `flow_sde` (noise of a given size) or
    `flow_noise` (noise of a learned size)."""
    chunk: int = 10
    """Low-level actions per decision, H."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of the critic and of the network of "flow_noise"."""
    model: str = "lerobot/pi0_base"
    """A pi0 of transformers, by hub name or folder."""
    processor: str = ""
    """Hub name or folder of its tokenizer and image processor, if they lie elsewhere (for instance
    "google/paligemma-3b-pt-224")."""
    pretrained: bool = True
    """Start from pretrained weights."""
    vlm_words: int = 48
    """Tokens that an instruction may have."""
    vlm_trains: tuple[str, ...] = ("language",)
    """Which parts of the vision-language model are trained where it is: "language", "connector"
    (without adapters), "vision". What a frozen vision tower and connector make of an image is
    computed once."""
    lora_rank: int = 0
    """Train the vision-language model through low-rank adapters of this rank only; 0: train its
    weights."""
    lora_targets: tuple[str, ...] = ()
    """Names of the linear layers that get adapters, for instance q_proj v_proj; none: all of the
    parts that are trained."""
    precision: str = "auto"
    """Arithmetic of the vision-language model: "float32", "bfloat16", or "auto" (bfloat16 where the
    processor has it). The action expert is always float32, because log-probabilities depend on
    it."""
    architecture: Annotated[str, tyro.conf.Suppress] = ""
    """Filled in: what the model is, so that a saved policy needs no hub."""

    def __post_init__(self) -> None:
        check_network(self.chunk, self.hidden)
        check_precision(self.precision)
        check_vlm(self.vlm_words, self.vlm_trains)
        check_lora(self.lora_rank, self.lora_targets)


class Policy(PretrainedPolicy):
    """PaliGemma ("vlm"), action expert ("head"), and a "critic".

    pi0 (Black et al., 2024, arXiv 2410.24164) denoises a chunk by flow matching while it attends to
    the keys and values that PaliGemma made of images and instruction. Those are made once per
    decision. All denoising steps of a decision are scored in one batched pass of the expert, so
    they may be trained by any policy gradient (piRL, 2025, arXiv 2510.25889); see
    :mod:`vla_rl.functional.flow`.

    What is kept of a decision is what the vision tower and the projector make of its images: the
    keys and values are five times as much again.

    The critic is a network of its own that reads detached averages of PaliGemma's last hidden
    states, and proprioception (piRL reads pi0's critic off the expert, averaged over the denoising,
    which asks for more passes; for pi0.5 it reads PaliGemma, as here).
    """

    config_class = Config

    @classmethod
    def upgraded(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Settings of an earlier version in the parts of today."""
        return regrouped(config, Config) if isinstance(config.get("head"), str) else config

    def __init__(self, config: Config, spaces: Spaces) -> None:
        """Make the network.

        Raises:
            ValueError: If transformers is too old, there is no such model, or no room in it.
        """
        # transformers: seconds, for those who use it
        from vla_rl.policies._pi0 import expert, network, prefix
        from vla_rl.policies._pi0 import inputs as pi0_inputs

        reading = pi0_inputs.Reading(config.model, config.processor, config.vlm_words)
        about = pi0_inputs.describe(reading, spaces, config.architecture)
        super().__init__(replace(config, architecture=about.to_json()), spaces)
        network.check_room(about, spaces, config.chunk)
        adapters = network.Adapters(config.lora_rank, config.lora_targets)
        source = config.model if config.pretrained else None
        vlm, rest = network.make(source, about, config.vlm_trains, adapters, config.precision)
        self.prefix = prefix.Prefix(vlm, about, reading, config.vlm_trains, config.precision)
        made = expert.Expert(rest, self.prefix.layout)
        self.head = expert.ExpertHead(
            config.head, made, Size(config.chunk, spaces.action_dim, made.width, 0, config.hidden)
        )
        inputs = self.prefix.layout.summary + spaces.state_dim
        self.critic = mlp(inputs, config.hidden, 1, gain=0.0)
        self.train(False)

    def encode_images(self, images: Tensor, text: Tensor) -> Tensor:
        """The packed prefix ``[B, F]``: the critic's summary, then keys and values."""
        return self._read(self.prefix.look(images), text)

    @property
    def caches(self) -> bool:
        """Whether the vision tower and the projector are frozen, with the rest or without."""
        return super().caches or self.prefix.caches

    def cache_features(self, images: Tensor, text: Tensor) -> Tensor:
        """What the vision tower and the projector make of the images, ``[B, V * P * C]``."""
        return self.prefix.look(images).flatten(1)

    def from_cache(self, kept: Tensor, text: Tensor) -> Tensor:
        """The packed prefix from what was kept."""
        pieces = kept.shape[1] // self.prefix.width
        return self._read(kept.view(len(kept), pieces, self.prefix.width), text)

    def context(self, features: Tensor, text: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The packed prefix and the padded state; the head needs no words besides."""
        room = self.head.whole.expert.state_dim - state.shape[1]
        return torch.cat([features, F.pad(state, (0, room))], dim=1), text[:, :0]

    def estimate_value(self, features: Tensor, text: Tensor, state: Tensor) -> Tensor:
        """The critic's value ``[B]``."""
        summary = features[:, : self.prefix.layout.summary]
        value: Tensor = self.critic(torch.cat([summary, state], dim=1))
        return value[:, 0]

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by group."""
        return {
            "vlm": self.prefix.trainable(),
            "head": list(self.head.parameters()),
            "critic": list(self.critic.parameters()),
        }

    def encode_text(self, sentences: Sequence[str]) -> Floats:
        """Token ids, filled up with -1."""
        return self.prefix.encode(sentences)

    def save_extras(self, folder: Path) -> None:
        """The tokenizer, for new instructions."""
        self.prefix.save_reader(folder)

    def load_extras(self, folder: Path) -> None:
        """The tokenizer, for new instructions."""
        self.prefix.load_reader(folder)

    def _read(self, looked: Tensor, text: Tensor) -> Tensor:
        packed: Tensor = self.prefix(looked, text)
        return packed
