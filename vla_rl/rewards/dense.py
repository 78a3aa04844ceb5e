"""The environment's own reward, scaled so that the best possible episode is worth about 1."""

from __future__ import annotations

import numpy as np

from vla_rl.types import Floats, Trajectory

MAXIMUM_PER_STEP = 10.0  # Meta-World's reward (version 2) lies in [0, 10], 10 when solved


def reward(trajectory: Trajectory) -> Floats:
    """``[T]`` float32: environment reward over (10 x horizon), paid on as if solved to the end.

    An episode ends at success; without the last term, hovering next to the goal until the time
    limit would earn more than reaching it.
    """
    horizon = trajectory.spec.task.max_steps
    out = trajectory.env_reward / (MAXIMUM_PER_STEP * horizon)
    if trajectory.success:
        out = out.copy()
        out[-1] += (horizon - trajectory.steps) / horizon
    return out.astype(np.float32)
