"""Potential-based shaping with the suite's progress (Ng, Harada and Russell, 1999).

The potential is 0 after an episode that is closed, so the discounted sum is always ``-phi_0`` and
the optimal policy does not change. It distinguishes decisions, but not episodes from one start, so
it is for algorithms that credit single decisions, together with a reward for success.
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
    """``gamma * phi' - phi`` with the algorithm's discount and the progress ``phi``."""

    pays: ClassVar[Pays] = "shaping"

    def of(self, trajectory: Trajectory, end: EpisodeEnd) -> Floats:
        """Rewards ``[T]`` float32 of an episode."""
        potential = trajectory.progress.astype(np.float64)
        if end.closed(trajectory):
            potential[-1] = 0.0
        return (end.gamma * potential[1:] - potential[:-1]).astype(np.float32)
