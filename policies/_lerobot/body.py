"""What the kinds of LeRobot policies have in common here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vla_rl.policies._backbones.backbone import Grid
from vla_rl.types import Floats


class ActionScale(nn.Module):
    """Between actions of the suite, in [-1, 1], and the normalised ones of a network."""

    offset: Tensor  # [A]
    scale: Tensor  # [A]

    def __init__(self, action_dim: int) -> None:
        super().__init__()
        self.register_buffer("offset", torch.zeros(action_dim))
        self.register_buffer("scale", torch.ones(action_dim))

    def normalised(self, actions: Tensor) -> Tensor:
        """``[*, A]`` normalised as the network expects them."""
        return (actions - self.offset) / self.scale

    def restored(self, normalised: Tensor) -> Tensor:
        """``[*, A]`` as the suite takes them, not clipped."""
        return normalised * self.scale + self.offset


class Seen(nn.Module):
    """Stands where a network had its vision backbone: what comes in was looked at before."""

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """As torchvision's getter of intermediate layers answers."""
        return {"feature_map": features}


class Body(nn.Module, ABC):
    """One kind of LeRobot policy, taken apart into a vision part and an acting part.

    Attributes:
        grid: Views, positions and channels of what it makes of images.
        prompt: L, how many numbers at the start of a text row it reads; 0 if it reads no words.
        head: An :class:`vla_rl.policy.ActionHead`.
        image_size: Height and width that images are scaled to, or None if it scales them itself.
        looks_frozen: Whether the vision part is never trained.
    """

    grid: Grid
    head: Any
    prompt = 0
    image_size: tuple[int, int] | None = None
    looks_frozen = False

    @abstractmethod
    def look(self, images: Tensor) -> Tensor:
        """``[B, V, 3, h, w]`` normalised images to ``[B, V, P, C]``."""

    @abstractmethod
    def context(self, features: Tensor, prompt: Tensor, state: Tensor) -> Tensor:
        """All that the head reads ``[B, D]``, from ``[B, F]``, ``[B, L]`` and ``[B, S]``."""

    @abstractmethod
    def backbone(self) -> list[nn.Parameter]:
        """Parameters of the group "vlm", trained or not."""

    def encode(self, sentences: Sequence[str]) -> Floats:
        """Prompts ``[n, L]``."""
        return np.zeros((len(sentences), 0), np.float32)

    def save_reader(self, folder: Path) -> None:
        """Write what new instructions need."""

    def load_reader(self, folder: Path) -> None:
        """Read what :meth:`save_reader` wrote."""
