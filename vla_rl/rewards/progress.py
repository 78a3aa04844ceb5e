"""Potential-based shaping with the suite's progress (Ng, Harada and Russell, 1999).

The potential is 0 after an episode that is closed, so the discounted sum is ``-phi_0`` whatever was
done: the best policy stays the best one. It tells single decisions apart, never episodes from one
start, so it serves algorithms that credit decisions, beside a reward for success.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vla_rl.episode_end import EpisodeEnd, Pays
from vla_rl.rewards import EpisodeReward
from vla_rl.types import Floats, Trajectory


@dataclass(frozen=True)
class Reward(EpisodeReward):
    """``gamma * phi' - phi`` with the algorithm's discount, phi being the progress."""

    pays: ClassVar[Pays] = "shaping"

    def of(self, trajectory: Trajectory, end: EpisodeEnd) -> Floats:
        """``[T]`` float32."""
        potential = trajectory.progress.astype(np.float64)
        if end.closed(trajectory):
            potential[-1] = 0.0
        return (end.gamma * potential[1:] - potential[:-1]).astype(np.float32)
