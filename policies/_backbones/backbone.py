"""Vision backbones by name: from images to a grid of tokens ``[B, V, P, C]``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vla_rl.policies._backbones.config import uses_bfloat16
from vla_rl.types import Floats


class Grid(NamedTuple):
    """Shape of a backbone's output: V views of P positions of C channels."""

    views: int
    positions: int
    channels: int


class Backbone(nn.Module):
    """Turns ``[B, V, h, w, 3]`` uint8 images (and a prompt) into ``[B, V, P, C]`` float32 tokens.

    Attributes:
        grid: V, P and C.
        prompt: L, how many numbers at the start of a text row are a prompt for this backbone.
    """

    grid: Grid
    prompt: int = 0

    def __init__(self, precision: str) -> None:
        super().__init__()
        self.precision = precision

    @abstractmethod
    def tokens(self, images: Tensor, prompt: Tensor) -> Tensor:
        """Tokens of images and prompts ``[B, L]`` in any floating dtype; runs under autocast."""

    @abstractmethod
    def trainable(self) -> list[nn.Parameter]:
        """The parameters that may be trained."""

    def frozen_tokens(self, images: Tensor, prompt: Tensor) -> Tensor:
        """Tokens ``[B, V, P, C]`` without gradient, while nothing of the backbone is trained."""
        tokens: Tensor = self(images, prompt)
        return tokens

    @property
    def caches(self) -> bool:
        """Whether a part of it never trains; :meth:`cache_features` gives what that makes."""
        return False

    def cache_features(self, images: Tensor) -> Tensor:
        """What the part that never trains makes of images, ``[B, F]``."""
        raise NotImplementedError(f"{type(self).__name__} has no part that never trains")

    def from_cache(self, kept: Tensor, prompt: Tensor) -> Tensor:
        """Tokens from what was kept."""
        raise NotImplementedError(f"{type(self).__name__} has no part that never trains")

    def encode(self, sentences: Sequence[str]) -> Floats:
        """Prompts ``[n, L]`` of sentences."""
        return np.zeros((len(sentences), 0), np.float32)

    def save_reader(self, folder: Path) -> None:
        """Write what :meth:`encode` needs besides the weights into the folder of a policy."""

    def load_reader(self, folder: Path) -> None:
        """Read what :meth:`save_reader` wrote."""

    def low(self, device: torch.device) -> torch.autocast:
        """The arithmetic to run in."""
        return torch.autocast(
            device.type, torch.bfloat16, enabled=uses_bfloat16(self.precision, device)
        )

    def forward(self, images: Tensor, prompt: Tensor) -> Tensor:
        """Tokens ``[B, V, P, C]``, float32."""
        with self.low(images.device):
            tokens = self.tokens(images, prompt)
        return tokens.float()
