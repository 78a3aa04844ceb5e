"""DAPO's soft penalty on overlong rollouts, for successes only (arXiv 2503.14476).

Failures run to the time limit anyway; penalising them would add a constant that only inflates the
standard deviation of their group. Where success does not end an episode, all episodes run to the
limit, so none is penalised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_rl.episode_end import EpisodeEnd
from vla_rl.rewards import EpisodeReward
from vla_rl.types import Floats, Trajectory


@dataclass(frozen=True)
class Reward(EpisodeReward):
    """Penalty of 0 to -1 at the last decision of a slow success; to be combined with `sparse`."""

    cache: float = 0.2
    """Last share of the horizon, in (0, 1], over which the penalty grows from 0 to 1."""

    def __post_init__(self) -> None:
        if not 0 < self.cache <= 1:
            raise ValueError(
                f"reward overlong cache {self.cache} is outside the allowed range (0, 1]"
            )

    def of(self, trajectory: Trajectory, end: EpisodeEnd) -> Floats:
        """Rewards ``[T]`` float32 of an episode."""
        out = np.zeros(trajectory.decisions, np.float32)
        if trajectory.success and not trajectory.truncated:
            horizon = trajectory.spec.task.max_steps
            out[-1] = overlong_penalty(trajectory.steps, horizon, self.cache * horizon)
        return out


def overlong_penalty(length: float, limit: float, cache: float) -> float:
    """Equation 13: 0 up to ``limit - cache``, then linearly down to -1 at ``limit`` and beyond."""
    return -min(max(length - (limit - cache), 0.0) / cache, 1.0)
