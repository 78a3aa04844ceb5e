"""The reference policy: a vision (and language) backbone, proprioception, an action head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vla_rl.plugins import unknown
from vla_rl.policies import _heads
from vla_rl.policies._backbones import backbone
from vla_rl.policies._backbones.by_name import make, resolved
from vla_rl.policies._backbones.config import AnyBackbone, ConvConfig
from vla_rl.policies._context import text_encoders, token_learners
from vla_rl.policies._flat_settings import regrouped
from vla_rl.policies._heads.config import GaussianConfig, Head, Size, check_network
from vla_rl.policies._heads.mlp import mlp
from vla_rl.policies._pretrained import PretrainedPolicy
from vla_rl.types import Floats, Spaces


@dataclass(frozen=True)
class Config:
    """Settings of the vision-language-action policy."""

    backbone: AnyBackbone = field(default_factory=ConvConfig)
    """The backbone: from images to tokens."""
    head: Head = field(default_factory=GaussianConfig)
    """The action head: from a context to a chunk of actions."""
    chunk: int = 10
    """Low-level actions per decision, H."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of the actor and of the critic."""
    text: str = "minilm"
    """Frozen text encoder for the token learner: "minilm" or "hash" (hashed words, no weights)."""
    text_width: int = 32
    """Width of the trained instruction embedding."""
    token_learner: str = "project"
    """From backbone tokens to the context: "project" (localises best with little data) or
    "attention" (for backbones with many tokens)."""
    tokens: int = 1
    """Tokens per view that the token learner makes."""
    width: int = 128
    """Width of a token."""

    def __post_init__(self) -> None:
        check_network(self.chunk, self.hidden)
        token_learners.check(self.token_learner, self.tokens, self.width)
        if self.text not in text_encoders.ENCODERS:
            raise ValueError(unknown("text encoder", self.text, text_encoders.ENCODERS))
        if self.text_width < 1:
            raise ValueError(f"text_width {self.text_width} is outside the allowed range 1, 2, ...")


class Reader(nn.Module):
    """Brings features, the instruction and proprioception together in one context vector."""

    def __init__(self, config: Config, grid: backbone.Grid, state_dim: int) -> None:
        super().__init__()
        self.grid = grid
        self.adapter = nn.Linear(text_encoders.width(config.text), config.text_width)
        self.learner = token_learners.make(
            config.token_learner, grid, config.text_width, config.tokens, config.width
        )
        self.outputs = self.learner.outputs + config.text_width + state_dim

    def forward(self, features: Tensor, text: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, F]``, ``[B, E]``, ``[B, S]`` to the context and the adapted instruction."""
        words = torch.tanh(self.adapter(text))
        seen = self.learner(features.view(len(features), *self.grid), words)
        return torch.cat([seen, words, state], dim=1), words


class Policy(PretrainedPolicy):
    """Backbone ("vlm"), reader and action head ("head"), reader and value ("critic")."""

    config_class = Config

    @classmethod
    def upgraded(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Settings of an earlier version in the parts of today."""
        return regrouped(config, Config) if "vision" in config else config

    def __init__(self, config: Config, spaces: Spaces) -> None:
        config = replace(config, backbone=resolved(config.backbone, spaces))
        super().__init__(config, spaces)
        self.vision = make(config.backbone, spaces)
        self.reader = Reader(config, self.vision.grid, spaces.state_dim)
        inputs = self.reader.outputs
        size = Size(config.chunk, spaces.action_dim, inputs, config.text_width, config.hidden)
        self.head = _heads.make(config.head, size)
        self.critic_reader = Reader(config, self.vision.grid, spaces.state_dim)
        self.critic = mlp(inputs, config.hidden, 1, gain=0.0)
        self.train(False)

    def encode_images(self, images: Tensor, text: Tensor) -> Tensor:
        """Backbone tokens, flattened to ``[B, F]``."""
        tokens: Tensor = self.vision(images, self._prompt(text))
        return tokens.flatten(1)

    @property
    def caches(self) -> bool:
        """Whether the backbone, or what comes before its language model, is frozen."""
        return super().caches or self.vision.caches

    def cache_features(self, images: Tensor, text: Tensor) -> Tensor:
        """Backbone tokens, or what the frozen part of the backbone makes of the images."""
        if super().caches:
            return self.vision.frozen_tokens(images, self._prompt(text)).flatten(1)
        return self.vision.cache_features(images)

    def from_cache(self, kept: Tensor, text: Tensor) -> Tensor:
        """Backbone tokens from what was kept."""
        return (
            kept if super().caches else self.vision.from_cache(kept, self._prompt(text)).flatten(1)
        )

    def context(self, features: Tensor, text: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The head's context ``[B, D]`` and its embedding of the instruction."""
        context, words = self.reader(features, text[:, self.vision.prompt :], state)
        return context, words

    def estimate_value(self, features: Tensor, text: Tensor, state: Tensor) -> Tensor:
        """The critic's value ``[B]``."""
        context, _ = self.critic_reader(features, text[:, self.vision.prompt :], state)
        value: Tensor = self.critic(context)
        return value[:, 0]

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by group."""
        return {
            "vlm": self.vision.trainable(),
            "head": [*self.reader.parameters(), *self.head.parameters()],
            "critic": [*self.critic_reader.parameters(), *self.critic.parameters()],
        }

    def encode_text(self, sentences: Sequence[str]) -> Floats:
        """Prompts for the backbone, then features of the frozen text encoder."""
        prompts = self.vision.encode(sentences)
        return np.concatenate([prompts, text_encoders.encode(self.config.text, sentences)], axis=1)

    def save_extras(self, folder: Path) -> None:
        """What the backbone needs to read new instructions."""
        self.vision.save_reader(folder)

    def load_extras(self, folder: Path) -> None:
        """What the backbone needs to read new instructions."""
        self.vision.load_reader(folder)

    def _prompt(self, text: Tensor) -> Tensor:
        return text[:, : self.vision.prompt]
