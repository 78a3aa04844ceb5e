"""The environment's own reward, scaled by its suite so that the best episode is worth about 1."""

from __future__ import annotations

from vla_rl import plugins
from vla_rl.types import Floats, Trajectory


def reward(trajectory: Trajectory) -> Floats:
    """``[T]`` float32: what the suite's ``dense_reward`` says; without one, the bare reward.

    Only a suite knows the scale of its rewards, and whether ending early must be made up for.
    """
    suite = plugins.load("envs", trajectory.spec.task.suite)
    scaled: Floats = vars(suite).get("dense_reward", _bare)(trajectory)
    return scaled


def _bare(trajectory: Trajectory) -> Floats:
    return trajectory.env_reward
