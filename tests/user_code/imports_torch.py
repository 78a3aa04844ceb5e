"""A suite that brings torch into every worker."""

from __future__ import annotations

from dataclasses import replace

import torch

from vla_rl.envs import point_reach
from vla_rl.envs.point_reach import PointReach, Settings, expert, spaces
from vla_rl.types import Task

__all__ = ["Settings", "expert", "make", "spaces", "tasks"]


def tasks() -> tuple[Task, ...]:
    return tuple(replace(task, suite=__name__) for task in point_reach.tasks())


def make(task: Task, settings: Settings) -> PointReach:
    torch.manual_seed(0)
    return PointReach(task, settings)
