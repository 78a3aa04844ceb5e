"""point_reach in which two tasks have a variant with less light, and lists of tasks have names."""

from __future__ import annotations

from dataclasses import replace

from vla_rl.envs import point_reach
from vla_rl.envs.point_reach import PointReach, Settings, spaces
from vla_rl.sim import Expert
from vla_rl.types import Observation, Task

__all__ = ["SPLITS", "VARIANTS", "Settings", "expert", "make", "spaces", "tasks"]

VARIANTS = {"red-dim": "red", "blue-dim": "blue"}
SPLITS = {"all": ("red", "green", "blue"), "dim": ("red-dim", "blue-dim"), "one": ("green",)}


def tasks() -> tuple[Task, ...]:
    own = {task.id: replace(task, suite=__name__) for task in point_reach.tasks()}
    return (*own.values(), *(replace(own[base], id=name) for name, base in VARIANTS.items()))


def make(task: Task, settings: Settings) -> PointReach:
    return DimReach(task, settings) if task.id in VARIANTS else PointReach(task, settings)


def expert(task: Task) -> Expert:
    return point_reach.expert(replace(task, id=VARIANTS.get(task.id, task.id)))


class DimReach(PointReach):
    def __init__(self, task: Task, settings: Settings) -> None:
        super().__init__(replace(task, id=VARIANTS[task.id]), settings)
        self.task = task

    def observe(self) -> Observation:
        seen = super().observe()
        return Observation(seen.images // 2, seen.state)
