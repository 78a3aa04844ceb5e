"""Meta-World seen through its true state: a suite of 39 numbers and no images.

As reinforcement learning from states has it, an episode lasts until the time limit: success does
not end it, and what holds at the end counts. The reward is Meta-World's own, 10 per step once the
task is solved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vla_rl.envs import metaworld
from vla_rl.sim import Outcome
from vla_rl.types import Floats, Observation, Spaces, Task

NUMBERS = 39
_SIZE = 16  # of the images that there are none of


@dataclass(frozen=True)
class Settings:
    """There is nothing to choose."""

    success_ends: bool = False
    """Always off: an episode ends with its time."""

    def __post_init__(self) -> None:
        if self.success_ends:
            raise ValueError("success_ends True: in this suite episodes end with their time only")


def tasks() -> tuple[Task, ...]:
    """Those of Meta-World."""
    return tuple(replace(task, suite=__name__) for task in metaworld.tasks())


def spaces(settings: Settings) -> Spaces:
    """The true state and a hand that moves."""
    return Spaces((), _SIZE, NUMBERS, 4)


def success_ends(settings: Settings) -> bool:
    """Never."""
    return settings.success_ends


def make(task: Task, settings: Settings) -> StateWorld:
    """An environment for one task.

    Raises:
        ValueError: If the task is unknown, or its ``max_steps`` is not in 1..500.
    """
    return StateWorld(task)


class StateWorld(metaworld.MetaWorld):
    """One task; made by :func:`make`."""

    def __init__(self, task: Task) -> None:
        super().__init__(task, metaworld.Settings(cameras=(), image_size=_SIZE))
        self.spaces = spaces(Settings())
        self.observation_space = self.observation_space_for(self.spaces)  # type: ignore[assignment]

    def advance(self, action: Floats) -> Outcome:
        """As Meta-World's, but the time limit alone ends the episode."""
        outcome = super().advance(action)
        late = self._sawyer.curr_path_length >= self.task.max_steps
        return outcome._replace(terminated=False, truncated=late)

    def observe(self) -> Observation:
        """The true state."""
        images: NDArray[np.uint8] = np.empty((0, _SIZE, _SIZE, 3), np.uint8)
        return Observation(images, self.privileged.astype(np.float32))
