"""The contract of what stores episodes of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from vla_rl.types import Group


class Keeper(Protocol):
    """Stores episodes of a run, for instance those that were solved."""

    def keep(self, groups: Sequence[Group], iteration: int) -> None:
        """Receive all groups that were played in an iteration, and store some of them."""

    def metrics(self) -> dict[str, float]:
        """Metrics to log, with names that begin with ``keeper/``."""

    def state_dict(self) -> dict[str, object]:
        """JSON-able state for resuming."""

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take over a state."""
