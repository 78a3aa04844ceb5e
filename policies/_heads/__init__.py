"""Action heads by name: from a context vector to a chunk of actions, and how likely it was."""

from __future__ import annotations

from torch import nn

from vla_rl.policies._heads.config import NAMES, HeadConfig
from vla_rl.policies._heads.flow import FlowNoise, FlowSDE, OneStepFlowSDE
from vla_rl.policies._heads.gaussian import GaussianHead
from vla_rl.policies._heads.laplace import LaplaceHead

__all__ = ["NAMES", "HeadConfig", "make"]


def make(config: HeadConfig, context_dim: int, text_dim: int, action_dim: int) -> nn.Module:
    """The head that ``config.head`` names, a :class:`vla_rl.policy.ActionHead`.

    Args:
        config: Its settings.
        context_dim: D, width of the context.
        text_dim: E, width of the instruction's embedding.
        action_dim: A.
    """
    if config.head == "gaussian":
        return GaussianHead(config, context_dim, text_dim, action_dim)
    if config.head == "laplace":
        return LaplaceHead(config, context_dim, action_dim)
    if config.head == "flow_noise":
        return FlowNoise(config, context_dim, action_dim)
    if config.flow_stochastic == "one":
        return OneStepFlowSDE(config, context_dim, action_dim)
    return FlowSDE(config, context_dim, action_dim)
