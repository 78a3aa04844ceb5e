"""A reward with settings and state that compares the images of a whole group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np


@dataclass
class Reward:
    """How much brighter an episode ends than the others of its group."""

    weight: float = 1.0
    """Factor."""
    scale: float = 1.0
    """Of brightness."""
    pays: ClassVar[str] = "outcome"
    needs_images: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.seen = 0

    def score(self, groups, end):
        """The last decision gets it."""
        out = []
        for group in groups:
            last = np.array([t.final_obs.images.mean() for t in group])
            assert all(t.obs.images.size for t in group)
            self.seen += len(group)
            paid = [np.zeros(t.decisions, np.float32) for t in group]
            for numbers, brightness in zip(paid, last - last.mean(), strict=True):
                numbers[-1] = self.scale * brightness
            out.append(paid)
        return out

    def state_dict(self) -> dict[str, Any]:
        """How many episodes it has seen."""
        return {"seen": self.seen}

    def load_state_dict(self, state) -> None:
        """Take it over."""
        self.seen = state["seen"]
