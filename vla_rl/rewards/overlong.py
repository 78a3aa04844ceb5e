"""DAPO's soft punishment of overlong rollouts, for successes only (arXiv 2503.14476)."""

from __future__ import annotations

import numpy as np

from vla_rl.episode_end import EpisodeEnd
from vla_rl.types import Floats, Trajectory

CACHE = 0.2  # share of the horizon in which the punishment grows


def reward(trajectory: Trajectory, end: EpisodeEnd) -> Floats:
    """``[T]`` float32, 0 to -1 at the last decision of a slow success; add it to `sparse`.

    Failures run to the time limit anyway; punishing them would add a constant that only inflates
    the standard deviation of their group. Where success does not end an episode every one runs to
    the limit, and there is no slow success.
    """
    out = np.zeros(trajectory.decisions, np.float32)
    if trajectory.success and not trajectory.truncated:
        horizon = trajectory.spec.task.max_steps
        out[-1] = overlong_penalty(trajectory.steps, horizon, CACHE * horizon)
    return out


def overlong_penalty(length: float, limit: float, cache: float) -> float:
    """Equation 13: 0 up to ``limit - cache``, then linearly down to -1 at ``limit`` and beyond."""
    return -min(max(length - (limit - cache), 0.0) / cache, 1.0)
