"""A small convolutional backbone with fresh weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vla_rl.policies._backbones.backbone import Backbone, Grid


class ConvBackbone(Backbone):
    """A small convolutional network per view, from scratch; 64 px give 8 x 8 tokens of 32."""

    channels = 32

    def __init__(self, views: int, image_size: int, precision: str) -> None:
        super().__init__(precision)
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

    def tokens(self, images: Tensor, prompt: Tensor) -> Tensor:
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
