"""point_reach whose first step in the first process goes wrong, once, in a chosen way."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

from vla_rl.envs import point_reach
from vla_rl.sim import Outcome
from vla_rl.types import Floats, Spaces, Task


@dataclass(frozen=True)
class Settings:
    image_size: int = 16
    trouble: str = "none"
    """none, die, hang or raise."""
    marker: str = ""
    """A file that is made when the trouble happened."""


def tasks() -> tuple[Task, ...]:
    return tuple(replace(t, suite="tests.user_code.fragile_reach") for t in point_reach.tasks())


def spaces(settings: Settings) -> Spaces:
    return point_reach.spaces(point_reach.Settings(settings.image_size))


def make(task: Task, settings: Settings) -> FragileReach:
    inner = replace(task, suite="point_reach")
    return FragileReach(inner, point_reach.Settings(settings.image_size), settings)


class FragileReach(point_reach.PointReach):
    def __init__(self, task: Task, inner: point_reach.Settings, settings: Settings) -> None:
        super().__init__(task, inner)
        self._trouble = settings

    def advance(self, action: Floats) -> Outcome:
        self._misbehave_once()
        return super().advance(action)

    def _misbehave_once(self) -> None:
        kind, marker = self._trouble.trouble, Path(self._trouble.marker)
        if kind == "none" or marker.exists():
            return
        marker.touch()
        if kind == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "hang":
            time.sleep(3600)
        raise RuntimeError("the gripper fell off")
