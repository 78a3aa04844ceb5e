"""point_reach in which something goes wrong, in a chosen way."""

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
    """none; die, hang or raise, once at the first step in the first process; raise_again, at every
    step; raise_first, at the first start from every seed."""
    marker: str = ""
    """A file that is made when the trouble happened, with raise_first one for each seed."""


def tasks() -> tuple[Task, ...]:
    return tuple(replace(t, suite="tests.user_code.fragile_reach") for t in point_reach.tasks())


def spaces(settings: Settings) -> Spaces:
    return point_reach.spaces(point_reach.Settings(settings.image_size))


def make(task: Task, settings: Settings) -> FragileReach:
    inner = replace(task, suite="point_reach")
    return FragileReach(inner, point_reach.Settings(settings.image_size), settings)


class FragileReach(point_reach.PointReach):
    def __init__(self, task: Task, inner: point_reach.Settings, settings: Settings) -> None:
        self._trouble = settings
        super().__init__(task, inner)

    def start(self, seed: int) -> float:
        marker = Path(f"{self._trouble.marker}-{seed}")
        # A simulator is made with a start from 0.
        if self._trouble.trouble == "raise_first" and seed and not marker.exists():
            marker.touch()
            raise RuntimeError("the camera saw nothing")
        return super().start(seed)

    def advance(self, action: Floats) -> Outcome:
        if self._trouble.trouble == "raise_again":
            raise ValueError(f"an action of {len(action)} numbers does not suit the gripper")
        if self._trouble.trouble in ("die", "hang", "raise"):
            self._misbehave_once()
        return super().advance(action)

    def _misbehave_once(self) -> None:
        kind, marker = self._trouble.trouble, Path(self._trouble.marker)
        if marker.exists():
            return
        marker.touch()
        if kind == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "hang":
            time.sleep(3600)
        raise RuntimeError("the gripper fell off")
