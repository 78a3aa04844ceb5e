"""A suite whose settings can be changed while environments use them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vla_rl.envs import point_reach
from vla_rl.envs.point_reach import PointReach, expert
from vla_rl.types import Spaces, Task

__all__ = ["Settings", "expert", "make", "spaces", "tasks"]


@dataclass
class Settings:
    image_size: int = 16


def tasks() -> tuple[Task, ...]:
    return tuple(replace(task, suite=__name__) for task in point_reach.tasks())


def spaces(settings: Settings) -> Spaces:
    return point_reach.spaces(point_reach.Settings(settings.image_size))


def make(task: Task, settings: Settings) -> PointReach:
    return PointReach(task, point_reach.Settings(settings.image_size))
