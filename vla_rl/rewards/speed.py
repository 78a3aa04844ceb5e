"""Success that is worth more the earlier it comes; replaces `sparse`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_rl.episode_end import EpisodeEnd
from vla_rl.rewards import EpisodeReward
from vla_rl.types import Floats, Trajectory


@dataclass(frozen=True)
class Reward(EpisodeReward):
    """``1 - share * steps / horizon`` at the decision that solves the task."""

    share: float = 0.3
    """Share of the reward that a success at the end of the horizon loses, in [0, 1]."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"reward speed share {self.share} is outside the allowed range [0, 1]")

    def of(self, trajectory: Trajectory, end: EpisodeEnd) -> Floats:
        """Rewards ``[T]`` float32 of an episode."""
        out = np.zeros(trajectory.decisions, np.float32)
        horizon = trajectory.spec.task.max_steps
        out[-1] = float(trajectory.success) * (1 - self.share * trajectory.steps / horizon)
        return out
