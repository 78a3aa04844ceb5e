"""Success that is worth more the sooner it comes; in place of `sparse`."""

from __future__ import annotations

import numpy as np

from vla_rl.episode_end import EpisodeEnd
from vla_rl.types import Floats, Trajectory

SHARE = 0.3  # of a success's worth that is lost by using the whole horizon


def reward(trajectory: Trajectory, end: EpisodeEnd) -> Floats:
    """``[T]`` float32, ``1 - 0.3 * steps / horizon`` at the decision that solves the task."""
    out = np.zeros(trajectory.decisions, np.float32)
    horizon = trajectory.spec.task.max_steps
    out[-1] = float(trajectory.success) * (1 - SHARE * trajectory.steps / horizon)
    return out
