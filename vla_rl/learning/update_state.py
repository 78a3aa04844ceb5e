"""What an algorithm carries from update to update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

CLIP_MEMORY = 0.7  # weight of the past in the running mean of a measured clip range


@dataclass
class UpdateState:
    """State that an algorithm carries from update to update; the loop owns and saves it.

    Attributes:
        longest: Longest horizon of the run's tasks, in environment steps.
        clip_range: The measured clip range; None if there is none yet.
    """

    longest: int
    clip_range: float | None = None

    def follow(self, measured: float | None) -> None:
        """Move the clip range towards a measured one, if there is one."""
        if measured is not None and self.clip_range is not None:
            measured = CLIP_MEMORY * self.clip_range + (1 - CLIP_MEMORY) * measured
        self.clip_range = self.clip_range if measured is None else measured

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state for resuming."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state."""
        for name, value in state.items():
            setattr(self, name, value)
