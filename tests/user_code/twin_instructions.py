"""A suite with two tasks that no policy can tell apart."""

from __future__ import annotations

from dataclasses import replace

from vla_rl.envs import point_reach
from vla_rl.envs.point_reach import Settings, expert, make, spaces
from vla_rl.types import Task

__all__ = ["Settings", "expert", "make", "spaces", "tasks"]


def tasks() -> tuple[Task, ...]:
    red, green, blue = (replace(task, suite=__name__) for task in point_reach.tasks())
    return red, green, replace(blue, instruction="Go to the  red dot")
