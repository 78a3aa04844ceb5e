"""Curricula choose the starts to train on. Each file defines a class ``Curriculum``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from vla_rl.types import EpisodeSpec, Group


class Curriculum(Protocol):
    """Chooses the starts to train on."""

    def sample(self, count: int) -> list[EpisodeSpec]:
        """Draw ``count`` starts, one per group."""

    def update(self, groups: Iterable[Group]) -> None:
        """Take the outcomes of played groups into account."""

    def state_dict(self) -> dict[str, object]:
        """JSON-able state for resuming."""

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore a state written by ``state_dict``."""
