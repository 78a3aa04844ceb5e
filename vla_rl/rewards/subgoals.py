"""A reward for each part of a sequence, 1 in total; for any other task 1 at success.

The sparse reward of a sequence is 0 until its last part is completed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_rl.episode_end import EpisodeEnd
from vla_rl.rewards import EpisodeReward
from vla_rl.types import Floats, Trajectory


@dataclass(frozen=True)
class Reward(EpisodeReward):
    """Share of the subgoals that a decision completes."""

    def of(self, trajectory: Trajectory, end: EpisodeEnd) -> Floats:
        """Rewards ``[T]`` float32 of an episode."""
        parts = len(trajectory.spec.task.subgoals)
        if parts:
            done = np.array([int(bits).bit_count() for bits in trajectory.completed], np.float32)
            newly: Floats = np.diff(done) / np.float32(parts)
            return newly
        out = np.zeros(trajectory.decisions, np.float32)
        out[-1] = float(trajectory.success)
        return out
