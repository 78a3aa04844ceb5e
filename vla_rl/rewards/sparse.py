"""Success only: 1 at the decision that solves the task, 0 elsewhere."""

from __future__ import annotations

import numpy as np

from vla_rl.episode_end import EpisodeEnd
from vla_rl.types import Floats, Trajectory


def reward(trajectory: Trajectory, end: EpisodeEnd) -> Floats:
    """``[T]`` float32, zero but for a 1 at the last decision of a solved episode."""
    out = np.zeros(trajectory.decisions, np.float32)
    out[-1] = float(trajectory.success)
    return out
