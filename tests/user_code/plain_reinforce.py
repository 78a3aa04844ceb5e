"""A user's own algorithm: REINFORCE with the batch mean as baseline, in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vla_rl.learning.learner import Learner
from vla_rl.policy import Policy
from vla_rl.types import Group, RolloutBatch, Task


@dataclass
class State:
    """How many episodes were played."""

    episodes: int = 0

    def state_dict(self) -> dict[str, Any]:
        return {"episodes": self.episodes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.episodes = state["episodes"]


@dataclass(frozen=True)
class Algorithm:
    """REINFORCE; the baseline is the mean return of the batch."""

    group_size: int = 2
    """Rollouts from each start."""
    uses_critic = False
    credits_decisions = False
    discount = 1.0
    uses_reference = False
    dynamic_sampling = False
    trains = ("head",)

    def density_for(self, policy: Policy) -> str:
        return policy.densities[0]

    def new_state(self, tasks: Sequence[Task]) -> State:
        return State()

    def observe(self, groups: Sequence[Group], state: State) -> None:
        state.episodes += sum(len(group) for group in groups)

    def keep(self, group: Group) -> bool:
        return True

    def update(
        self, learner: Learner, batch: RolloutBatch, state: State, rng: np.random.Generator
    ) -> dict[str, float]:
        returns = torch.from_numpy(batch.reward.sum(1))
        advantage = returns - returns.mean()
        for rows in learner.minibatches(batch, 10_000, rng):
            mask = torch.from_numpy(batch.mask[rows[:, 0], rows[:, 1]])
            logprob = (learner.evaluate(batch, rows).logprob * mask).sum(1)
            learner.accumulate(-(advantage[rows[:, 0]] * logprob).mean())
            step = learner.step()
        learner.version += 1
        return {"actor/grad_norm": step.norms["head"], "user/episodes": state.episodes}
