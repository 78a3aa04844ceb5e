"""The environment's own reward of every step, scaled by its suite.

A solved episode is credited with further steps up to its horizon (:mod:`vla_rl.episode_end`), at
the rate that the suite states for a solved step or else that of its last step, but never a negative
one: where steps are penalised, finishing is the reward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vla_rl import plugins
from vla_rl.episode_end import EpisodeEnd, Pays
from vla_rl.rewards import EpisodeReward
from vla_rl.types import DenseReward, Floats, Trajectory


@dataclass(frozen=True)
class Reward(EpisodeReward):
    """The environment's own reward, scaled by the suite's ``dense_reward`` where it has one."""

    pays: ClassVar[Pays] = "steps"

    def of(self, trajectory: Trajectory, end: EpisodeEnd) -> Floats:
        """Rewards ``[T]`` float32 of an episode."""
        task = trajectory.spec.task
        suite = plugins.load("envs", task.suite)
        scaled: DenseReward = vars(suite).get("dense_reward", _plain)(task)
        rate = scaled.solved_step if end.solved_step is None else end.solved_step
        if rate is None:
            rate = max(trajectory.last_env_reward, 0.0)
        out = trajectory.env_reward * np.float32(scaled.scale)
        out[-1] += scaled.scale * end.paid_on(trajectory, rate)
        return out.astype(np.float32)


def _plain(task: object) -> DenseReward:
    return DenseReward()
