"""Potential-based shaping with the suite's progress (Ng, Harada and Russell, 1999)."""

from __future__ import annotations

import numpy as np

from vla_rl.types import Floats, Trajectory


def reward(trajectory: Trajectory) -> Floats:
    """``[T]`` float32 differences of progress; they add up to (last - first) progress.

    Undiscounted, so the optimal policy of the shaped task is that of the unshaped one.
    """
    return np.diff(trajectory.progress).astype(np.float32)
