"""A user's own algorithm: REINFORCE with the batch mean as baseline, in one file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from vla_rl.learner import Learner
from vla_rl.types import Group, RolloutBatch


@dataclass(frozen=True)
class Algorithm:
    """REINFORCE; the baseline is the mean return of the batch."""

    group_size: int = 2
    """Rollouts from each start."""
    uses_critic = False
    uses_reference = False
    dynamic_sampling = False
    trains = ("head",)

    def keep(self, group: Group) -> bool:
        return True

    def update(
        self, learner: Learner, batch: RolloutBatch, rng: np.random.Generator
    ) -> dict[str, float]:
        returns = torch.from_numpy(batch.reward.sum(1))
        advantage = returns - returns.mean()
        for rows in learner.minibatches(batch, 10_000, rng):
            mask = torch.from_numpy(batch.mask[rows[:, 0], rows[:, 1]])
            logprob = (learner.evaluate(batch, rows).logprob * mask).sum(1)
            learner.accumulate(-(advantage[rows[:, 0]] * logprob).mean())
            norm = learner.step()
        learner.version += 1
        return {"actor/grad_norm": norm}

    def state_dict(self) -> dict[str, object]:
        return {}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        pass
