"""Algorithms: each file defines a dataclass ``Algorithm`` and holds only what sets it apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from vla_rl.learning.learner import Learner
from vla_rl.policy import Policy
from vla_rl.types import Group, RolloutBatch, Task


class AlgorithmState(Protocol):
    """State that an algorithm carries from update to update; the loop owns and saves it."""

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state for resuming."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state."""


class Algorithm(Protocol):
    """What a module in ``vla_rl/algorithms`` (or a user's own) must define as ``Algorithm``.

    It holds settings only; what changes during a run is the state that :meth:`new_state` returns.
    """

    @property
    def group_size(self) -> int:
        """Rollouts from each start."""

    @property
    def uses_critic(self) -> bool:
        """Whether the algorithm has a critic, which may bootstrap at the time limit."""

    @property
    def credits_decisions(self) -> bool:
        """Whether single decisions are credited with the rewards that follow them."""

    @property
    def discount(self) -> float:
        """Discount per decision; 1 for algorithms that sum rewards."""

    @property
    def uses_reference(self) -> bool:
        """Whether the learner needs the starting policy as a reference."""

    @property
    def dynamic_sampling(self) -> bool:
        """Whether new starts are drawn in place of dropped groups."""

    @property
    def trains(self) -> tuple[str, ...]:
        """Parameter groups of the policy that the algorithm trains."""

    def density_for(self, policy: Policy) -> str:
        """The member of ``policy.densities`` with which this algorithm is unbiased."""

    def new_state(self, tasks: Sequence[Task]) -> AlgorithmState:
        """State of a run on these tasks, before its first update."""

    def keep(self, group: Group) -> bool:
        """Whether to learn from a group; the others are dropped."""

    def observe(self, groups: Sequence[Group], state: Any) -> None:
        """Receive all groups that were played, before the update with the kept ones.

        Those that other processes played come without images (``Trajectory.here``).
        """

    def update(
        self, learner: Learner, batch: RolloutBatch, state: Any, rng: np.random.Generator
    ) -> dict[str, float]:
        """Improve the policy with one batch and return metrics."""
