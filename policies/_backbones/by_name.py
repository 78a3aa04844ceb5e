"""The backbone that the settings name."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from vla_rl.policies._backbones.backbone import Backbone
from vla_rl.policies._backbones.config import (
    BackboneConfig,
    TimmConfig,
    VisionLanguageConfig,
    VLMConfig,
)
from vla_rl.policies._backbones.conv import ConvBackbone
from vla_rl.types import Spaces

ConfigT = TypeVar("ConfigT", bound=BackboneConfig)


def resolved(config: ConfigT, spaces: Spaces) -> ConfigT:
    """The settings with ``architecture`` filled in, if the backbone needs that.

    Raises:
        ValueError: If there is no such model.
    """
    if not isinstance(config, VisionLanguageConfig) or config.architecture:
        return config
    if not spaces.views:
        raise ValueError(f"{config.name!r} needs images, but this suite has no cameras")
    from vla_rl.policies._vlm import backbone

    return replace(config, architecture=backbone.describe(config, spaces))


def make(config: BackboneConfig, spaces: Spaces) -> Backbone:
    """The backbone of ``config`` for the views of ``spaces``.

    Raises:
        ValueError: If its weights or its processor cannot be had.
    """
    views = len(spaces.views)
    if isinstance(config, TimmConfig) and views:
        from vla_rl.policies._backbones.timm_model import TimmBackbone

        return TimmBackbone(config, views)
    if isinstance(config, VLMConfig):
        from vla_rl.policies._vlm import backbone

        return backbone.VLMBackbone(config, spaces)
    return ConvBackbone(views, spaces.image_size, config.precision)
