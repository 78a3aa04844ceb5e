"""PPO with generalised advantage estimation (arXiv 1707.06347 and 1506.02438).

A critic estimates the value of every decision, so that single decisions get credit and rollouts
need not come in groups.

The critic predicts *normalised* returns, (return - mean) / std with running statistics of all
returns so far, so that rewards of any size are learned at the same speed (van Hasselt et al., 2016,
arXiv 1602.07714, but without rescaling the last layer: the statistics change slowly, and the critic
is trained on the newly normalised returns at once).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vla_rl import functional as F
from vla_rl.learning.learner import Learner
from vla_rl.learning.policy_gradient import Credit, PolicyGradient
from vla_rl.learning.update_state import UpdateState
from vla_rl.types import RolloutBatch, Task

MEMORY = 0.9  # weight of the past in the return statistics, per batch
FLOOR = 0.1  # least divisor of the advantages, in standard deviations of the returns


@dataclass
class State(UpdateState):
    """Update state with running sums of returns and their squares, of weight ``weight``."""

    weight: float = 0.0
    first: float = 0.0
    second: float = 0.0

    def remember(self, returns: Tensor) -> None:
        """Include the returns ``[n]`` of a batch."""
        returns = returns.double()
        self.weight = MEMORY * self.weight + (1 - MEMORY)
        self.first = MEMORY * self.first + (1 - MEMORY) * float(returns.mean())
        self.second = MEMORY * self.second + (1 - MEMORY) * float(returns.square().mean())

    @property
    def mean(self) -> float:
        """Mean of the returns; 0 before the first batch."""
        return self.first / self.weight if self.weight else 0.0

    @property
    def spread(self) -> float:
        """Standard deviation of the returns; 0 while all are equal."""
        if not self.weight:
            return 0.0
        square = self.second / self.weight
        variance = square - self.mean**2
        return float(variance**0.5) if variance > F.EQUAL**2 * square else 0.0

    @property
    def scale(self) -> float:
        """Factor from normalised values to returns; 1 while all returns are equal."""
        return self.spread or 1.0


@dataclass(frozen=True)
class Algorithm(PolicyGradient):
    """Clipped policy gradient with a critic."""

    group_size: int = 1
    """Rollouts from each start; 1, because a critic needs no comparison within groups."""
    importance_sampling_level: F.RatioLevel = "action"
    """Level of the importance ratio: one per low-level action, over all its dimensions."""
    loss_agg_mode: F.Aggregation = "token-mean"
    """Aggregation: mean over all units, because every decision has its own advantage."""
    clip_ratio_c: float = 3.0
    """Dual clip: largest ratio used with a negative advantage, above 1; 0 for none. Without it one
    unlikely action can dominate the gradient of its minibatch."""
    gamma: float = 0.99
    """Discount per *decision* (a chunk of actions), not per environment step."""
    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation, between one-step advantages (0) and returns
    (1)."""
    vf_coef: float = 0.5
    """Weight of the critic's loss."""
    cliprange_value: float = 0.0
    """Clip range of the value loss, in standard deviations of the returns; 0 for none. Clipping
    only slows the critic down."""
    critic_warmup: int = 3
    """Number of updates at the start that train the critic only. A saved critic needs them, too,
    because it predicts returns as normalised in the run that trained it."""
    whiten_advantages: bool = True
    """Normalise the advantages of every batch to zero mean and unit variance, with a floor on the
    divisor."""

    uses_critic: ClassVar[bool] = True
    trains: ClassVar[tuple[str, ...]] = ("head", "critic")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gamma", "gae_lambda"):
            if not 0 <= vars(self)[name] <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {vars(self)[name]}")
        for name in ("vf_coef", "cliprange_value", "critic_warmup"):
            if vars(self)[name] < 0:
                raise ValueError(f"{name} must not be negative, got {vars(self)[name]}")

    @property
    def discount(self) -> float:  # type: ignore[override]
        """Discount per decision."""
        return self.gamma

    def new_state(self, tasks: Sequence[Task]) -> State:
        """State of a run before its first batch."""
        return State(**vars(super().new_state(tasks)))

    def credit(self, batch: RolloutBatch, reward: Tensor, state: State) -> Credit:
        """Compute generalised advantages and targets of the critic."""
        said, valid = torch.from_numpy(batch.chunk.value), torch.from_numpy(batch.valid)
        follows = torch.from_numpy(batch.bootstrapped)
        value = state.mean + state.scale * said
        final = state.mean + state.scale * torch.from_numpy(batch.final_value)
        final = torch.where(follows, final, torch.zeros_like(final))
        advantage = F.generalised_advantage(
            reward, value, final, valid, self.gamma, self.gae_lambda
        )
        returns = F.returns_to_go(reward, self.gamma, final, valid)
        state.remember(returns[valid])
        target = (advantage + value - state.mean) / state.scale
        unexplained = (returns - value)[valid].var() / returns[valid].var().clamp(min=1e-30)
        log = {
            "critic/vf_explained_var": float(1 - unexplained),
            "critic/value_mean": float(value[valid].mean()),
            "critic/return_mean": state.mean,
            "critic/return_std": state.spread,
        }
        if not state.spread:  # with equal returns, advantages are only errors of the critic
            advantage = torch.zeros_like(advantage)
        elif self.whiten_advantages:
            advantage = F.whiten_advantages(advantage, valid, FLOOR * state.spread)
        else:
            advantage = advantage / state.scale
        return Credit(batch, advantage, target, log)

    def value_loss(self, value: Tensor, old_value: Tensor, target: Tensor) -> Tensor:
        """Squared error of normalised values."""
        loss = F.clipped_value_loss(value, old_value, target, self.cliprange_value)
        return self.vf_coef * loss

    def actor_waits(self, learner: Learner) -> bool:
        """Whether the critic is still warming up."""
        return learner.version < self.critic_warmup
