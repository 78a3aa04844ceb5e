"""Vision backbones by name: from images to a grid of tokens ``[B, V, P, C]``."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import peft
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_rl.plugins import unknown
from vla_rl.policies import _weights
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


class TimmBackbone(Backbone):
    """One feature map of any timm model, shared by the views; optionally trained by LoRA only."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str, views: int, size: int, layer: int | None, pretrained: bool, lora_rank: int
    ) -> None:
        super().__init__()
        self.size, self.lora_rank = size, lora_rank
        self.net = _weights.feature_network(name, size, layer, pretrained)
        settings = self.net.pretrained_cfg
        for key in ("mean", "std"):
            value = torch.tensor(settings[key]).view(3, 1, 1) * 255
            self.register_buffer(key, value, persistent=False)
        with torch.no_grad():
            positions, channels = self._map(torch.zeros(1, 3, size, size)).shape[1:]
        self.grid = Grid(views, positions, channels)
        if lora_rank:
            _add_lora(self.net, lora_rank)

    def tokens(self, images: Tensor) -> Tensor:
        """All views as one batch."""
        pixels = images.flatten(0, 1).permute(0, 3, 1, 2).float()
        if pixels.shape[-1] != self.size:
            size = (self.size, self.size)
            pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
        return self._map((pixels - self.mean) / self.std).unflatten(0, images.shape[:2])

    def _map(self, pixels: Tensor) -> Tensor:
        """Normalised tokens ``[n, P, C]``: raw ones reach hundreds in a few channels."""
        (found,) = self.net(pixels)
        tokens = found.flatten(2).transpose(1, 2).float()
        return F.layer_norm(tokens, tokens.shape[-1:])

    def trainable(self) -> list[nn.Parameter]:
        """The adapters if there are any, or all."""
        if not self.lora_rank:
            return list(self.parameters())
        return [value for name, value in self.named_parameters() if "lora_" in name]


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
    return TimmBackbone(vision.removeprefix(TIMM), views, size, layer, pretrained, lora_rank)


def check(vision: str, lora_rank: int) -> None:
    """Refuse a name or an adapter that cannot be made.

    Raises:
        ValueError: If there is no such backbone, or LoRA is asked of one trained from scratch.
    """
    if lora_rank < 0:
        raise ValueError(f"lora_rank {lora_rank} is outside the allowed range 0, 1, ...")
    if vision.startswith(TIMM):
        name = vision.removeprefix(TIMM)
        # A suffix after a dot names weights of the same architecture.
        if not timm.is_model(name):
            raise ValueError(unknown("timm model", name, timm.list_models()))
    elif vision != "conv":
        raise ValueError(unknown("vision backbone", vision, ("conv", "timm:MODEL")))
    elif lora_rank:
        raise ValueError(
            f'lora_rank {lora_rank} needs a pretrained backbone such as "timm:...", not "conv"'
        )


def _add_lora(net: nn.Module, rank: int) -> None:
    """Freeze a network and add adapters to its linear layers, or else to its convolutions."""
    linear = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    convolutions = [
        name
        for name, module in net.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups == 1
    ]
    targets = linear or convolutions
    settings = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    net.requires_grad_(False)
    peft.inject_adapter_in_model(settings, net)


def _use_bfloat16(precision: str, device: torch.device) -> bool:
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    # Only where convolutions have a bfloat16 kernel; elsewhere it is many times slower.
    return torch.backends.mkldnn.is_available() and bool(
        torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
