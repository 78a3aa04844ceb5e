"""Potential-based shaping with the suite's progress (Ng, Harada and Russell, 1999)."""

from __future__ import annotations

import numpy as np

from vla_rl.episode_end import EpisodeEnd
from vla_rl.types import Floats, Trajectory

PAYS = "shaping"


def reward(trajectory: Trajectory, end: EpisodeEnd) -> Floats:
    """``[T]`` float32 ``gamma * phi' - phi`` with the algorithm's discount, phi being the progress.

    The potential is 0 after an episode that is closed, so the discounted sum is ``-phi_0`` whatever
    was done: the best policy stays the best one. It tells single decisions apart, never episodes
    from one start, so it serves algorithms that credit decisions, beside a reward for success.
    """
    potential = trajectory.progress.astype(np.float64)
    if end.closed(trajectory):
        potential[-1] = 0.0
    return (end.gamma * potential[1:] - potential[:-1]).astype(np.float32)
