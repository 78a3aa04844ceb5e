"""Policies of LeRobot: ACT, Diffusion Policy and SmolVLA, pretrained or new, with a likelihood.

They need ``pip install 'vla-rl[lerobot]'``; LeRobot is imported when a policy is made.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_rl.policies._context import text_encoders
from vla_rl.policies._context.critic import Critic
from vla_rl.policies._flat_settings import regrouped
from vla_rl.policies._lerobot.config import HEADS, Config, require_lerobot
from vla_rl.policies._pretrained import PretrainedPolicy
from vla_rl.types import Floats, Spaces


class Policy(PretrainedPolicy):
    """A vision part ("vlm"), an acting part ("head"), and a "critic" of its own.

    ACT and Diffusion Policy read no words, so they can do one task only; the critic reads them.
    SmolVLA's own configuration decides what is trained (``train_expert_only``, by default true:
    SmolVLM, the group "vlm", then has nothing to train, and what it makes of images is kept).

    A pretrained policy keeps the statistics that it was trained with: images, proprioception and
    actions are normalised by them, and its actions are those of the suite, clipped to [-1, 1]. A
    new one takes those of proprioception from demonstrations. Proprioception is clipped at 5
    deviations, which LeRobot does not do. Nothing is remembered between decisions: a policy that
    reads several observations gets the present one as often, and ACT's temporal ensembling is not
    used.
    """

    config_class = Config

    @classmethod
    def upgraded(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Settings of an earlier version in the parts of today."""
        if not isinstance(config.get("head"), str):
            return config
        flat = {key: value for key, value in config.items() if value is not None}
        if config["head"] == "auto":
            del flat["head"]
            if config["architecture"]:  # else it is a run, whose policy has yet to be described
                kind = json.loads(config["architecture"])["policy"]["type"]
                flat["head"] = HEADS[kind][0]().name
        return regrouped(flat, Config)

    image_mean: Tensor  # [V, 3, 1, 1]
    image_std: Tensor

    def __init__(self, config: Config, spaces: Spaces) -> None:
        """Make the network.

        Raises:
            ValueError: If LeRobot is not installed, there is no such policy, or it does not fit.
        """
        require_lerobot()
        # Half a minute on a slow machine, for those who use it.
        from vla_rl.policies._lerobot import description, make

        folder = description.find(config.model) if config.model and config.pretrained else None
        about = make.describe(config, spaces, folder)
        if not config.architecture:  # else it was checked when it was new, by other defaults
            config.check_kind(about.kind)
        super().__init__(replace(config, architecture=about.to_json()), spaces)
        self.views = description.matched_views(about.config(), config.views, spaces)
        self.body = make.body(config, about, spaces, len(self.views), folder)
        self.critic = Critic(
            self.body.grid,
            spaces.state_dim,
            text=config.text,
            text_width=config.text_width,
            hidden=config.hidden,
            width=config.width,
        )
        self._learns = frozenset(n for n, p in self.body.named_parameters() if p.requires_grad)
        shape = (len(self.views), 3, 1, 1)
        self.register_buffer("image_mean", torch.zeros(shape))
        self.register_buffer("image_std", torch.ones(shape))
        self._normalise(make.statistics(config, about, folder), list(about.images))
        self.train(False)

    @property
    def head(self) -> Any:  # type: ignore[override]  # it belongs to the body
        """The action head."""
        return self.body.head

    def fit_statistics(self, states: Floats) -> None:
        """Normalise proprioception by ``[n, S]`` states, unless the policy has its own statistics.

        Raises:
            ValueError: If the states have another shape.
        """
        mean, std = self.state_mean.clone(), self.state_std.clone()
        super().fit_statistics(states)
        if self.config.model and not self.config.adapt:
            self.state_mean.copy_(mean)
            self.state_std.copy_(std)

    def encode_images(self, images: Tensor, text: Tensor) -> Tensor:
        """Features of the vision part, flattened to ``[B, F]``."""
        seen: Tensor = self.body.look(self._pictures(images))
        return seen.flatten(1)

    @property
    def caches(self) -> bool:
        """Whether the vision part is frozen, or never trained."""
        return super().caches or self.body.looks_frozen

    def context(self, features: Tensor, text: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """All that the head reads ``[B, D]``; it needs no words besides."""
        return self.body.context(features, text[:, : self.body.prompt], state), text[:, :0]

    def estimate_value(self, features: Tensor, text: Tensor, state: Tensor) -> Tensor:
        """The critic's value ``[B]``."""
        value: Tensor = self.critic(features, text[:, self.body.prompt :], state)
        return value

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by group."""
        vision = {id(p) for p in self.body.backbone()}
        body = [p for name, p in self.body.named_parameters() if name in self._learns]
        return {
            "vlm": [p for p in body if id(p) in vision],
            "head": [p for p in body if id(p) not in vision],
            "critic": list(self.critic.parameters()),
        }

    def encode_text(self, sentences: Sequence[str]) -> Floats:
        """Prompts of the policy, then features of the critic's text encoder."""
        prompts = self.body.encode(sentences)
        return np.concatenate([prompts, text_encoders.encode(self.config.text, sentences)], axis=1)

    def save_extras(self, folder: Path) -> None:
        """What the policy needs to read new instructions."""
        self.body.save_reader(folder)

    def load_extras(self, folder: Path) -> None:
        """What the policy needs to read new instructions."""
        self.body.load_reader(folder)

    def _pictures(self, images: Tensor) -> Tensor:
        """``[B, V, h, w, 3]`` uint8 of the suite to normalised ones of the policy's cameras."""
        chosen = images[:, [self.spaces.views.index(view) for view in self.views]]
        pixels = chosen.permute(0, 1, 4, 2, 3).float() / 255
        size = self.body.image_size
        if size is not None and tuple(pixels.shape[-2:]) != tuple(size):
            flat = pixels.flatten(0, 1)
            flat = F.interpolate(flat, size, mode="bilinear", antialias=True, align_corners=False)
            pixels = flat.view(*pixels.shape[:3], *size)
        return (pixels - self.image_mean) / self.image_std

    def _normalise(self, found: Any, images: Sequence[str]) -> None:
        for row, key in enumerate(images[: len(self.views)]):
            if key in found:
                self.image_mean[row] = found[key].offset.view(3, 1, 1)
                self.image_std[row] = found[key].scale.view(3, 1, 1)
        if "observation.state" in found:
            self.state_mean.copy_(found["observation.state"].offset)
            self.state_std.copy_(found["observation.state"].scale)
        if "action" in found:
            self.head.actions.offset.copy_(found["action"].offset)
            self.head.actions.scale.copy_(found["action"].scale)
