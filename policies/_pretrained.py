"""What policies have in common that can start from pretrained weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from vla_rl.policy import PolicyBase
from vla_rl.types import Spaces

PolicyT = TypeVar("PolicyT", bound="PretrainedPolicy")


class PretrainedPolicy(PolicyBase):
    """A policy whose settings, or those of its backbone, include `pretrained`."""

    @classmethod
    def blank(cls: type[PolicyT], config: Any, spaces: Spaces) -> PolicyT:
        """Without fetching pretrained weights, as they will be replaced."""
        policy = cls(_fetching(config, False), spaces)
        policy.config = _fetching(policy.config, _fetches(config))
        return policy


def _fetches(config: Any) -> bool:
    return bool(getattr(getattr(config, "backbone", config), "pretrained", False))


def _fetching(config: Any, wanted: bool) -> Any:
    """The settings with ``pretrained`` as wanted, where there is such a setting."""
    part = getattr(config, "backbone", config)
    if not hasattr(part, "pretrained"):
        return config
    changed = replace(part, pretrained=wanted)
    return changed if part is config else replace(config, backbone=changed)
