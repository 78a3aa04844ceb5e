"""Vision backbones by name: from images to a grid of tokens ``[B, V, P, C]``."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vla_rl.plugins import unknown
from vla_rl.types import Spaces

TIMM = "timm:"
PRECISIONS = ("auto", "float32", "bfloat16")


class Grid(NamedTuple):
    """Shape of a backbone's output: V views of P positions of C channels."""

    views: int
    positions: int
    channels: int


class Backbone(nn.Module):
    """Turns ``[B, V, h, w, 3]`` uint8 images into ``[B, V, P, C]`` float32 tokens."""

    grid: Grid

    @abstractmethod
    def tokens(self, images: Tensor) -> Tensor:
        """Tokens in any floating dtype; runs under autocast."""

    @abstractmethod
    def trainable(self) -> list[nn.Parameter]:
        """The parameters that may be trained."""

    def forward(self, images: Tensor, precision: str) -> Tensor:
        """Tokens ``[B, V, P, C]``, float32."""
        low = _use_bfloat16(precision, images.device)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=low):
            tokens = self.tokens(images)
        return tokens.float()


class ConvBackbone(Backbone):
    """A small convolutional network per view, from scratch; 64 px give 8 x 8 tokens of 32."""

    channels = 32

    def __init__(self, views: int, image_size: int) -> None:
        super().__init__()
        side = -(-image_size // 8)
        self.grid = Grid(views, side * side, self.channels)
        nets = (self._net().to(memory_format=torch.channels_last) for _ in range(views))  # type: ignore[call-overload]
        self.nets = nn.ModuleList(nets)

    def _net(self) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, self.channels, 1),
            nn.ReLU(),
        )

    def tokens(self, images: Tensor) -> Tensor:
        """One network per view."""
        if not self.nets:
            return images.new_zeros((len(images), *self.grid), dtype=torch.float32)
        # Images are stored channels last, and stay so: it is the layout of the fast convolutions.
        views = [images[:, index].permute(0, 3, 1, 2) for index in range(len(self.nets))]
        pixels = [view.float().sub_(127.5).mul_(1 / 64) for view in views]
        maps = [net(view) for net, view in zip(self.nets, pixels, strict=True)]
        return torch.stack([grid.flatten(2).transpose(1, 2) for grid in maps], dim=1)

    def trainable(self) -> list[nn.Parameter]:
        """All."""
        return list(self.parameters())


def make(
    vision: str,
    spaces: Spaces,
    *,
    size: int,
    layer: int | None,
    pretrained: bool,
    lora_rank: int,
) -> Backbone:
    """The backbone called ``vision`` for the views of ``spaces``; see :func:`check`."""
    views = len(spaces.views)
    if vision == "conv" or not views:
        return ConvBackbone(views, spaces.image_size)
    from vla_rl.policies._timm import TimmBackbone

    return TimmBackbone(vision.removeprefix(TIMM), views, size, layer, pretrained, lora_rank)


def check(vision: str, lora_rank: int) -> None:
    """Refuse a name or an adapter that cannot be made.

    Raises:
        ValueError: If there is no such backbone, or LoRA is asked of one trained from scratch.
    """
    if lora_rank < 0:
        raise ValueError(f"lora_rank {lora_rank} is outside the allowed range 0, 1, ...")
    if vision.startswith(TIMM):
        from vla_rl.policies import _timm

        _timm.check(vision.removeprefix(TIMM))
    elif vision != "conv":
        raise ValueError(unknown("vision backbone", vision, ("conv", "timm:MODEL")))
    elif lora_rank:
        raise ValueError(
            f'lora_rank {lora_rank} needs a pretrained backbone such as "timm:...", not "conv"'
        )


def _use_bfloat16(precision: str, device: torch.device) -> bool:
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # Only where convolutions have a bfloat16 kernel; elsewhere it is many times slower.
    built: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return built and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
