"""Running mean and standard deviation, the same however the rows are divided into batches."""

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
        mean: ``[S]`` mean.
        square: ``[S]`` sum of squared deviations from the mean.
    """

    count: int = 0
    mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    square: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def add(self, rows: NDArray[Any]) -> None:
        """Include ``[n, S]`` rows."""
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
        """``[S]`` standard deviation of all rows."""
        return np.sqrt(self.square / max(self.count, 1))

    def state_dict(self) -> dict[str, object]:
        """JSON-able state for resuming."""
        return {
            "count": self.count,
            "mean": self.mean.tolist(),
            "square": self.square.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state."""
        self.count = int(state["count"])
        self.mean, self.square = np.array(state["mean"]), np.array(state["square"])
