"""Success only: 1 at the decision that solves the task, 0 elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_rl.episode_end import EpisodeEnd
from vla_rl.rewards import EpisodeReward
from vla_rl.types import Floats, Trajectory


@dataclass(frozen=True)
class Reward(EpisodeReward):
    """1 at the last decision of a solved episode."""

    def of(self, trajectory: Trajectory, end: EpisodeEnd) -> Floats:
        """Rewards ``[T]`` float32 of an episode, 0 except for that 1."""
        out = np.zeros(trajectory.decisions, np.float32)
        out[-1] = float(trajectory.success)
        return out
