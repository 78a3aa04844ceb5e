"""A vision-language model that speaks its actions: every number is a token of its vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from vla_rl.plugins import unknown
from vla_rl.policies._backbones import backbone
from vla_rl.policies._backbones.backbone import VLM, BackboneConfig, Grid
from vla_rl.policies._context import text_encoders, token_learners
from vla_rl.policies._heads.config import HeadConfig
from vla_rl.policies._heads.mlp import mlp
from vla_rl.policies._pretrained import PretrainedPolicy
from vla_rl.types import Floats, Spaces


@dataclass(frozen=True)
class Config(BackboneConfig):
    """Settings of the policy that speaks its actions."""

    vision: str = "vlm:embedded"
    """The vision-language model, "vlm:MODEL": by hub name or folder; one with a single stack of
    decoder layers."""
    chunk: int = 8
    """Low-level actions per decision, H; acting takes H * A passes of one token each."""
    bins: int = 256
    """Equal intervals of [-1, 1], each with a token of its own."""
    temperature: float = 1.0
    """What scores are divided by before they become probabilities, at acting and in updates; above
    1 explores more than what was cloned."""
    state_tokens: bool = True
    """Let proprioception follow the prompt as tokens, by the intervals of the actions."""
    text: str = "minilm"
    """Frozen text encoder for the critic: "minilm" or "hash" (hashed words, no weights)."""
    text_width: int = 32
    """Width of the critic's instruction embedding."""
    token_learner: str = "project"
    """From image tokens to the critic: "project" or "attention" (for many tokens)."""
    tokens: int = 1
    """Tokens per view that the critic's token learner makes."""
    width: int = 128
    """Width of such a token."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of the critic."""
    action_ids: Annotated[tuple[int, ...], tyro.conf.Suppress] = ()
    """Filled in: ids of the tokens of the intervals, so that a saved policy needs no tokenizer."""

    def __post_init__(self) -> None:
        if not self.vision.startswith(VLM):
            raise ValueError(
                f"action tokens need a vision-language model, not the backbone {self.vision!r}; "
                'choose "vlm:MODEL"'
            )
        BackboneConfig.__post_init__(self)
        if self.vlm_tokens != "image":
            raise ValueError(
                f"vlm_tokens {self.vlm_tokens!r} does nothing here: actions are read off the last "
                "token anyway; leave it out"
            )
        if self.bins < 2:
            raise ValueError(f"bins {self.bins} is outside the allowed range 2, 3, ...")
        if len(self.action_ids) not in (0, self.bins):
            raise ValueError(
                f"bins {self.bins} do not fit the {len(self.action_ids)} action_ids that were "
                "chosen before; leave action_ids out to choose them anew"
            )
        if not self.temperature > 0:
            raise ValueError(
                f"temperature {self.temperature} is outside the allowed range (0, inf)"
            )
        # The ranges of what these settings share with those of the other heads.
        HeadConfig(chunk=self.chunk, hidden=self.hidden)
        token_learners.check(self.token_learner, self.tokens, self.width)
        if self.text not in text_encoders.ENCODERS:
            raise ValueError(unknown("text encoder", self.text, text_encoders.ENCODERS))
        if self.text_width < 1:
            raise ValueError(f"text_width {self.text_width} is outside the allowed range 1, 2, ...")


class Critic(nn.Module):
    """Image tokens, the instruction and proprioception to a value; a network of its own."""

    def __init__(self, config: Config, grid: Grid, state_dim: int) -> None:
        super().__init__()
        self.grid = grid
        self.adapter = nn.Linear(text_encoders.width(config.text), config.text_width)
        self.learner = token_learners.make(
            config.token_learner, grid, config.text_width, config.tokens, config.width
        )
        inputs = self.learner.outputs + config.text_width + state_dim
        self.value = mlp(inputs, config.hidden, 1, gain=0.0)

    def forward(self, kept: Tensor, text: Tensor, state: Tensor) -> Tensor:
        """``[B, F]``, ``[B, E]``, ``[B, S]`` to ``[B]``.

        What a model reads besides the image tokens (features of middle layers) comes after them in
        ``kept``, and is left out.
        """
        tokens = kept[:, : self.grid.views * self.grid.positions * self.grid.channels]
        grid = tokens.reshape(len(kept), *self.grid)
        words = torch.tanh(self.adapter(text))
        seen = self.learner(F.layer_norm(grid, grid.shape[-1:]), words)
        value: Tensor = self.value(torch.cat([seen, words, state], dim=1))
        return value[:, 0]


class Policy(PretrainedPolicy):
    """A vision-language model ("vlm"), its rows of the action tokens ("head"), and a "critic".

    Its features are what the vision tower and the connector make of the images. They are kept
    whenever those two are frozen; the language model runs in every update, frozen or not.
    """

    config_class = Config

    def __init__(self, config: Config, spaces: Spaces) -> None:
        """Make the network.

        Raises:
            ValueError: If there is no such model, it cannot speak actions, or there are no cameras.
        """
        from vla_rl.policies._heads import (
            tokens as _action_tokens,  # transformers: seconds, for those who use it
        )

        config = backbone.resolved(config, spaces)
        if not config.action_ids:
            config = replace(config, action_ids=_action_tokens.choose(config, config.bins))
        super().__init__(config, spaces)
        self.head = _action_tokens.TokenHead(config, spaces)
        self.critic = Critic(config, self._speaker.grid, spaces.state_dim)
        self.train(False)

    @property
    def _speaker(self) -> Any:
        return self.head.speaker

    def see(self, images: Tensor, text: Tensor) -> Tensor:
        """What the vision tower and the connector make of the images, ``[B, F]``."""
        features: Tensor = self._speaker.keep(images)
        return features.float()

    @property
    def keeps(self) -> bool:
        """Whether the vision tower and the connector are frozen, with the rest or without."""
        return super().keeps or self._speaker.keeps

    def context(self, features: Tensor, text: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """All that the head reads: ``[B, F + S]``, and the prompt."""
        return torch.cat([features, state], dim=1), text[:, : self._speaker.prompt]

    def judge(self, features: Tensor, text: Tensor, state: Tensor) -> Tensor:
        """The critic's value ``[B]``."""
        value: Tensor = self.critic(features, text[:, self._speaker.prompt :], state)
        return value

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by group."""
        return {
            "vlm": self._speaker.trainable(),
            "head": list(self._speaker.rows.parameters()),
            "critic": list(self.critic.parameters()),
        }

    def encode_text(self, sentences: Sequence[str]) -> Floats:
        """Prompts, then features of the critic's text encoder."""
        prompts = self._speaker.encode(sentences)
        return np.concatenate([prompts, text_encoders.encode(self.config.text, sentences)], axis=1)

    def save_extras(self, folder: Path) -> None:
        """What the model needs to read new instructions."""
        self._speaker.save_reader(folder)

    def load_extras(self, folder: Path) -> None:
        """What the model needs to read new instructions."""
        self._speaker.load_reader(folder)
