"""A vision-language model that generates actions: each number is a token of its vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vla_rl.policies._backbones.by_name import resolved
from vla_rl.policies._context import text_encoders
from vla_rl.policies._context.critic import Critic
from vla_rl.policies._flat_settings import regrouped
from vla_rl.policies._heads.speaker import choose
from vla_rl.policies._heads.token_config import Config
from vla_rl.policies._pretrained import PretrainedPolicy
from vla_rl.types import Floats, Spaces


class Policy(PretrainedPolicy):
    """A vision-language model ("vlm"), its rows of the action tokens ("head"), and a "critic".

    Its features are what the vision tower and the connector make of the images. They are kept
    whenever those two are frozen; the language model runs in every update, frozen or not.
    """

    config_class = Config

    @classmethod
    def upgraded(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Settings of an earlier version in the parts of today."""
        return regrouped(config, Config) if "vision" in config else config

    def __init__(self, config: Config, spaces: Spaces) -> None:
        """Make the network.

        Raises:
            ValueError: If there is no such model or camera, or it cannot generate actions.
        """
        from vla_rl.policies._heads import tokens as _action_tokens

        config = replace(config, backbone=resolved(config.backbone, spaces))
        if not config.action_ids:
            config = replace(config, action_ids=choose(config.backbone, config.bins))
        super().__init__(config, spaces)
        self.head = _action_tokens.TokenHead(config, spaces)
        self.critic = Critic(
            self._speaker.grid,
            spaces.state_dim,
            text=config.text,
            text_width=config.text_width,
            hidden=config.hidden,
            width=config.width,
            token_learner=config.token_learner,
            tokens=config.tokens,
        )
        self.train(False)

    @property
    def _speaker(self) -> Any:
        return self.head.speaker

    def encode_images(self, images: Tensor, text: Tensor) -> Tensor:
        """What the vision tower and the connector make of the images, ``[B, F]``."""
        features: Tensor = self._speaker.cache_features(images)
        return features.float()

    @property
    def caches(self) -> bool:
        """Whether the vision tower and the connector are frozen, with the rest or without."""
        return super().caches or self._speaker.caches

    def context(self, features: Tensor, text: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """All that the head reads: ``[B, F + S]``, and the prompt."""
        return torch.cat([features, state], dim=1), text[:, : self._speaker.prompt]

    def estimate_value(self, features: Tensor, text: Tensor, state: Tensor) -> Tensor:
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
