"""Running mean and deviation, exact whatever the pieces in which the numbers arrive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class RunningMoments:
    """Mean and variance of all rows seen so far (Chan, Golub and LeVeque, 1979).

    Attributes:
        count: Rows seen.
        mean: ``[S]`` their mean.
        square: ``[S]`` sum of squared deviations from it.
    """

    count: int = 0
    mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    square: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def add(self, rows: NDArray[Any]) -> None:
        """Take ``[n, S]`` rows into account."""
        rows = np.asarray(rows, np.float64)
        if not len(rows):
            return
        mean, square = rows.mean(0), np.square(rows - rows.mean(0)).sum(0)
        if not self.count:
            self.count, self.mean, self.square = len(rows), mean, square
            return
        total = self.count + len(rows)
        apart = mean - self.mean
        self.mean = self.mean + apart * len(rows) / total
        self.square = self.square + square + np.square(apart) * self.count * len(rows) / total
        self.count = total

    @property
    def std(self) -> NDArray[np.float64]:
        """``[S]`` deviation of all rows."""
        return np.sqrt(self.square / max(self.count, 1))

    def state_dict(self) -> dict[str, object]:
        """JSON-able state for resuming."""
        return {
            "count": self.count,
            "mean": self.mean.tolist(),
            "square": self.square.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self.count = int(state["count"])
        self.mean, self.square = np.array(state["mean"]), np.array(state["square"])
