"""PPO with generalised advantage estimation (arXiv 1707.06347 and 1506.02438).

A critic estimates the value of every decision, so that single decisions get credit and rollouts
need not come in groups.

The critic predicts *normalised* returns, (return - mean) / deviation with running statistics of the
returns that were met, so that rewards of any size are learned from at the same speed (van Hasselt
et al., 2016, arXiv 1602.07714, without rescaling the last layer: the statistics move slowly, and
the critic is trained at once on what they make of the same batch).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vla_rl import functional as F
from vla_rl.learning.learner import Learner
from vla_rl.learning.policy_gradient import Credit, PolicyGradient, UpdateState
from vla_rl.types import RolloutBatch, Task

MEMORY = 0.9  # of the return statistics, from batch to batch
FLOOR = 0.1  # of the advantages' deviation, in deviations of the returns


@dataclass
class State(UpdateState):
    """Also the running mean and mean square of the returns; both of weight ``weight``."""

    weight: float = 0.0
    first: float = 0.0
    second: float = 0.0

    def remember(self, returns: Tensor) -> None:
        """Take the returns ``[n]`` of a batch into account."""
        returns = returns.double()
        self.weight = MEMORY * self.weight + (1 - MEMORY)
        self.first = MEMORY * self.first + (1 - MEMORY) * float(returns.mean())
        self.second = MEMORY * self.second + (1 - MEMORY) * float(returns.square().mean())

    @property
    def mean(self) -> float:
        """Of the returns; 0 before the first batch."""
        return self.first / self.weight if self.weight else 0.0

    @property
    def spread(self) -> float:
        """Deviation of the returns; 0 while they were all equal."""
        if not self.weight:
            return 0.0
        square = self.second / self.weight
        variance = square - self.mean**2
        return float(variance**0.5) if variance > F.EQUAL**2 * square else 0.0

    @property
    def scale(self) -> float:
        """What normalised values are multiplied with; 1 while all returns were equal."""
        return self.spread or 1.0


@dataclass(frozen=True)
class Algorithm(PolicyGradient):
    """Clipped policy gradient with a critic."""

    group_size: int = 1
    """Rollouts from each start; a critic needs no comparison, so every start is another."""
    importance_sampling_level: F.RatioLevel = "action"
    """One ratio per low-level action, whose dimensions are decided together."""
    loss_agg_mode: F.Aggregation = "token-mean"
    """Mean over all units, as every decision has its own advantage."""
    clip_ratio_c: float = 3.0
    """Dual clip: largest ratio that counts for negative advantages, above 1; 0 for none. Without it
    one unlikely action may take the whole gradient of its minibatch."""
    gamma: float = 0.99
    """Discount per *decision* (a chunk of actions), not per environment step."""
    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation: 0 for one-step advantages, 1 for whole
    returns."""
    vf_coef: float = 0.5
    """Weight of the critic's loss."""
    cliprange_value: float = 0.0
    """The critic is not rewarded for leaving its old estimate by more, in deviations of the
    returns; 0 for no such clip, which only slows a critic down."""
    critic_warmup: int = 3
    """Updates at the beginning that train the critic only. The critic of a saved policy needs them,
    too: it speaks in the units of the run that trained it."""
    whiten_advantages: bool = True
    """Zero mean and unit variance in every batch, with a floor for batches that teach nothing."""

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
        """Per decision."""
        return self.gamma

    def new_state(self, tasks: Sequence[Task]) -> State:
        """Return statistics that have seen nothing."""
        return State(**vars(super().new_state(tasks)))

    def credit(self, batch: RolloutBatch, reward: Tensor, state: State) -> Credit:
        """Generalised advantages, and what the critic should have said."""
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
        if not state.spread:  # no return ever differed: all that is there are the critic's errors
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
        """During the critic's warm-up."""
        return learner.version < self.critic_warmup
