"""Algorithms: each file states only what sets it apart, and defines a dataclass ``Algorithm``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from vla_rl.learning.learner import Learner
from vla_rl.policy import Policy
from vla_rl.types import Group, RolloutBatch, Task


class AlgorithmState(Protocol):
    """What an algorithm carries from update to update; the loop owns and saves it."""

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state for resuming."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""


class Algorithm(Protocol):
    """What the loop needs of an algorithm (a dataclass in ``vla_rl/algorithms`` or a user's own).

    It holds settings only; what changes during a run is in the state that :meth:`new_state` makes.
    """

    @property
    def group_size(self) -> int:
        """Rollouts from each start."""

    @property
    def uses_critic(self) -> bool:
        """Whether episodes cut by the time limit may need a bootstrap value."""

    @property
    def credits_decisions(self) -> bool:
        """Whether single decisions are credited with what came after them."""

    @property
    def discount(self) -> float:
        """Per decision; 1 for algorithms that add up rewards."""

    @property
    def uses_reference(self) -> bool:
        """Whether the learner must hold the policy that training started from."""

    @property
    def dynamic_sampling(self) -> bool:
        """Whether starts are drawn again in place of dropped groups."""

    @property
    def trains(self) -> tuple[str, ...]:
        """Parameter groups of the policy that the algorithm trains."""

    def density_for(self, policy: Policy) -> str:
        """The density of the policy's noise that suits, of ``policy.densities``."""

    def new_state(self, tasks: Sequence[Task]) -> AlgorithmState:
        """The state of a run on these tasks before its first update."""

    def keep(self, group: Group) -> bool:
        """Whether a group can teach something; the others are dropped."""

    def observe(self, groups: Sequence[Group], state: Any) -> None:
        """Look at every group that was played, before the update from those that are kept.

        Episodes of other processes are there, without their images (``Trajectory.here``).
        """

    def update(
        self, learner: Learner, batch: RolloutBatch, state: Any, rng: np.random.Generator
    ) -> dict[str, float]:
        """Improve the policy on one batch; returns what to log."""
