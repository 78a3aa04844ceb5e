"""Action heads by name: from a context vector to a chunk of actions, and how likely it was."""

from __future__ import annotations

from torch import nn

from vla_rl.policies._heads.config import (
    FlowNoiseConfig,
    FlowSDEConfig,
    GaussianConfig,
    HeadConfig,
    LaplaceConfig,
    Size,
)
from vla_rl.policies._heads.flow import FlowNoise, FlowSDE, OneStepFlowSDE
from vla_rl.policies._heads.gaussian import GaussianHead
from vla_rl.policies._heads.laplace import LaplaceHead


def make(config: HeadConfig, size: Size) -> nn.Module:
    """The head of these settings, a :class:`vla_rl.policy.ActionHead`."""
    match config:
        case GaussianConfig():
            return GaussianHead(config, size)
        case LaplaceConfig():
            return LaplaceHead(config, size)
        case FlowNoiseConfig():
            return FlowNoise(config, size)
        case FlowSDEConfig(stochastic="one"):
            return OneStepFlowSDE(config, size)
        case FlowSDEConfig():
            return FlowSDE(config, size)
    raise TypeError(f"{type(config).__name__} is no settings of a head that can be made here")
