"""The reference policy: a vision backbone, a text encoder, proprioception, a Gaussian head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vla_rl.plugins import unknown
from vla_rl.policies import _backbones, _text, _tokens
from vla_rl.policies._heads import GaussianConfig, GaussianHead, mlp
from vla_rl.policy import PolicyBase
from vla_rl.types import Floats, Spaces


@dataclass(frozen=True)
class Config(GaussianConfig):
    """Settings of the vision-language-action policy."""

    vision: str = "conv"
    """Backbone: "conv" (small, from scratch) or "timm:MODEL", for instance
    "timm:vit_small_patch14_dinov2" or "timm:tf_efficientnet_lite0"."""
    pretrained: bool = True
    """Start a timm backbone from pretrained weights."""
    vision_size: int = 112
    """Side in pixels to which a timm backbone's images are resized."""
    vision_layer: int | None = None
    """Which feature map of a timm model; none: the last one of a transformer (the tenth block of
    DINOv2-small), stride 16 of a convolutional network."""
    lora_rank: int = 0
    """Train a timm backbone through low-rank adapters of this rank only; 0: train its weights."""
    precision: str = "auto"
    """Arithmetic of the backbone: "float32", "bfloat16", or "auto" (bfloat16 where the processor
    has it). The heads are always float32."""
    text: str = "minilm"
    """Frozen text encoder: "minilm" or "hash" (hashed words, no weights)."""
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
        super().__post_init__()
        _backbones.check(self.vision, self.lora_rank)
        _tokens.check(self.token_learner, self.tokens, self.width)
        if self.precision not in _backbones.PRECISIONS:
            raise ValueError(unknown("precision", self.precision, _backbones.PRECISIONS))
        if self.text not in _text.ENCODERS:
            raise ValueError(unknown("text encoder", self.text, _text.ENCODERS))
        for name, value in (("text_width", self.text_width), ("vision_size", self.vision_size)):
            if value < 1:
                raise ValueError(f"{name} {value} is outside the allowed range 1, 2, ...")


class Reader(nn.Module):
    """Brings features, the instruction and proprioception together in one context vector."""

    def __init__(self, config: Config, grid: _backbones.Grid, state_dim: int) -> None:
        super().__init__()
        self.grid = grid
        self.adapter = nn.Linear(_text.width(config.text), config.text_width)
        self.learner = _tokens.make(
            config.token_learner, grid, config.text_width, config.tokens, config.width
        )
        self.outputs = self.learner.outputs + config.text_width + state_dim

    def forward(self, features: Tensor, text: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, F]``, ``[B, E]``, ``[B, S]`` to the context and the adapted instruction."""
        words = torch.tanh(self.adapter(text))
        seen = self.learner(features.view(len(features), *self.grid), words)
        return torch.cat([seen, words, state], dim=1), words


class Policy(PolicyBase):
    """Backbone ("vlm"), reader and Gaussian head ("head"), reader and value ("critic")."""

    config_class = Config

    def __init__(self, config: Config, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        self.vision = _backbones.make(
            config.vision,
            spaces,
            size=config.vision_size,
            layer=config.vision_layer,
            pretrained=config.pretrained,
            lora_rank=config.lora_rank,
        )
        self.reader = Reader(config, self.vision.grid, spaces.state_dim)
        inputs = self.reader.outputs
        self.head = GaussianHead(config, inputs, config.text_width, spaces.action_dim)
        self.critic_reader = Reader(config, self.vision.grid, spaces.state_dim)
        self.critic = mlp(inputs, config.hidden, 1, gain=0.0)
        self.train(False)

    @classmethod
    def blank(cls, config: Any, spaces: Spaces) -> Policy:
        """Without fetching pretrained weights, as they will be replaced."""
        policy = cls(replace(config, pretrained=False), spaces)
        policy.config = config
        return policy

    def see(self, images: Tensor, text: Tensor) -> Tensor:
        """Backbone tokens, flattened to ``[B, F]``."""
        tokens: Tensor = self.vision(images, self.config.precision)
        return tokens.flatten(1)

    def context(self, features: Tensor, text: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The head's context ``[B, D]`` and its embedding of the instruction."""
        context, words = self.reader(features, text, state)
        return context, words

    def judge(self, features: Tensor, text: Tensor, state: Tensor) -> Tensor:
        """The critic's value ``[B]``."""
        context, _ = self.critic_reader(features, text, state)
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
        """Features of the frozen text encoder."""
        return _text.encode(self.config.text, sentences)
