"""Any timm model as a backbone; imported only when one is asked for, as timm loads slowly."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_rl.policies._backbones import packaged_weights
from vla_rl.policies._backbones.backbone import Backbone, Grid
from vla_rl.policies._backbones.config import TimmConfig

_SIZE = 112


class TimmBackbone(Backbone):
    """One feature map of any timm model, shared by the views; optionally trained by LoRA only."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: TimmConfig, views: int) -> None:
        super().__init__(config.precision)
        self.size = size = config.size or _SIZE
        self.lora_rank = config.lora_rank
        self.net = packaged_weights.feature_network(
            config.model, size, config.layer, config.pretrained
        )
        settings = self.net.pretrained_cfg
        for key in ("mean", "std"):
            value = torch.tensor(settings[key]).view(3, 1, 1) * 255
            self.register_buffer(key, value, persistent=False)
        with torch.no_grad():
            positions, channels = self._map(torch.zeros(1, 3, size, size)).shape[1:]
        self.grid = Grid(views, positions, channels)
        if self.lora_rank:
            _add_lora(self.net, self.lora_rank)

    def tokens(self, images: Tensor, prompt: Tensor) -> Tensor:
        """All views as one batch."""
        pixels = images.flatten(0, 1).permute(0, 3, 1, 2).float()
        if pixels.shape[-1] != self.size:
            size = (self.size, self.size)
            pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
        tokens = self._map((pixels - self.mean) / self.std)
        return tokens.view(*images.shape[:2], *tokens.shape[1:])

    def _map(self, pixels: Tensor) -> Tensor:
        """Normalised tokens ``[n, P, C]``: raw ones reach hundreds in a few channels."""
        (found,) = self.net(pixels)
        if found.shape[1] != self.net.feature_info.channels()[-1]:  # some models are channels last
            found = found.permute(0, 3, 1, 2)
        tokens = found.flatten(2).transpose(1, 2).float()
        return F.layer_norm(tokens, tokens.shape[-1:])

    def trainable(self) -> list[nn.Parameter]:
        """The adapters if there are any, or all."""
        if not self.lora_rank:
            return list(self.parameters())
        return [value for name, value in self.named_parameters() if "lora_" in name]


def _add_lora(net: nn.Module, rank: int) -> None:
    """Freeze a network and add adapters to its linear layers, or else to its convolutions."""
    import peft  # seconds, for those who use it

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
