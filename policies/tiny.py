"""The smallest policy: pixels, state and hashed words into a multilayer perceptron.

It shows what a policy must define, and learns small tasks in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_rl.policies import _heads
from vla_rl.policies._context import text_encoders
from vla_rl.policies._flat_settings import regrouped
from vla_rl.policies._heads.config import GaussianConfig, Head, Size, check_network
from vla_rl.policies._heads.mlp import mlp
from vla_rl.policy import PolicyBase
from vla_rl.types import Floats, Spaces

_PIXELS = 16  # larger images are averaged down to this side
_TEXT = "hash"


@dataclass(frozen=True)
class Config:
    """Settings of the tiny policy."""

    head: Head = field(default_factory=GaussianConfig)
    """The action head: from a context to a chunk of actions."""
    chunk: int = 10
    """Low-level actions per decision, H."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of the actor and of the critic."""
    features: int = 64
    """Width of the image features, F."""

    def __post_init__(self) -> None:
        check_network(self.chunk, self.hidden)


class Policy(PolicyBase):
    """Averaged pixels -> one layer (the "vlm") -> action head and critic."""

    config_class = Config

    @classmethod
    def upgraded(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Settings of an earlier version in the parts of today."""
        return regrouped(config, Config) if isinstance(config.get("head"), str) else config

    def __init__(self, config: Config, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        text_dim = text_encoders.width(_TEXT)
        side = min(_PIXELS, spaces.image_size)
        self.side = side
        width = config.features if spaces.views else 0
        pixels = len(spaces.views) * side * side * 3
        self.vision = nn.Linear(pixels, width) if spaces.views else nn.Identity()
        inputs = width + text_dim + spaces.state_dim
        size = Size(config.chunk, spaces.action_dim, inputs, text_dim, config.hidden)
        self.head = _heads.make(config.head, size)
        self.critic = mlp(inputs, config.hidden, 1, gain=0.0)

    def encode_images(self, images: Tensor, text: Tensor) -> Tensor:
        """Backbone features ``[B, F]`` of ``[B, V, h, w, 3]`` uint8 images."""
        if not self.spaces.views:
            return torch.zeros(len(images), 0, device=images.device)
        pixels = images.flatten(0, 1).permute(0, 3, 1, 2).float() / 255 - 0.5
        pixels = F.adaptive_avg_pool2d(pixels, self.side)
        return torch.tanh(self.vision(pixels.reshape(len(images), -1)))

    def context(self, features: Tensor, text: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Everything side by side."""
        return torch.cat([features, text, state], dim=1), text

    def estimate_value(self, features: Tensor, text: Tensor, state: Tensor) -> Tensor:
        """The critic's value ``[B]``."""
        value: Tensor = self.critic(torch.cat([features, text, state], dim=1))
        return value[:, 0]

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by group."""
        return {
            "vlm": list(self.vision.parameters()),
            "head": list(self.head.parameters()),
            "critic": list(self.critic.parameters()),
        }

    def encode_text(self, sentences: Sequence[str]) -> Floats:
        """Hashed words."""
        return text_encoders.encode(_TEXT, sentences)
