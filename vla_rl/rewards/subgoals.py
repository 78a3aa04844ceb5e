"""The parts of a sequence as they are completed, 1 in all; 1 at success for any other task.

The sparse reward of a sequence waits for the last part and says nothing before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_rl.episode_end import EpisodeEnd
from vla_rl.rewards import EpisodeReward
from vla_rl.types import Floats, Trajectory


@dataclass(frozen=True)
class Reward(EpisodeReward):
    """Newly completed subgoals over their number, at the decision that completed them."""

    def of(self, trajectory: Trajectory, end: EpisodeEnd) -> Floats:
        """``[T]`` float32."""
        parts = len(trajectory.spec.task.subgoals)
        if parts:
            done = np.array([int(bits).bit_count() for bits in trajectory.completed], np.float32)
            newly: Floats = np.diff(done) / np.float32(parts)
            return newly
        out = np.zeros(trajectory.decisions, np.float32)
        out[-1] = float(trajectory.success)
        return out
