"""What policies have in common that can start from pretrained weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from vla_rl.policy import PolicyBase
from vla_rl.types import Spaces

PolicyT = TypeVar("PolicyT", bound="PretrainedPolicy")


class PretrainedPolicy(PolicyBase):
    """A policy whose ``Config`` has a field ``pretrained``."""

    @classmethod
    def blank(cls: type[PolicyT], config: Any, spaces: Spaces) -> PolicyT:
        """Without fetching pretrained weights, as they will be replaced."""
        policy = cls(replace(config, pretrained=False), spaces)
        policy.config = replace(policy.config, pretrained=config.pretrained)
        return policy
