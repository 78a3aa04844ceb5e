"""Two states, for which the best policy is known: stay short of the goal, or finish.

A positive action finishes, any other stays. Staying is paid ``HOVER`` a step and finishing
``SOLVED``, as a dense reward that measures how near the goal is would do. The time is to be seen,
so that a critic may know what is left of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import gymnasium
import numpy as np

from vla_rl.sim import Outcome, SimEnv
from vla_rl.types import Observation, Spaces, Task

HOVER, SOLVED = 0.9, 1.0
MAX_STEPS = 8


@dataclass(frozen=True)
class Settings:
    """How it ends."""

    success_ends: bool = True
    """Whether success ends an episode; if not, a solved one stays solved."""
    hover: float = HOVER
    """What staying is paid a step."""


@dataclass(frozen=True)
class State:
    solved: bool = False
    steps: int = 0


def tasks() -> tuple[Task, ...]:
    return (Task("tests.user_code.two_states", "finish", "finish", MAX_STEPS),)


def spaces(settings: Settings) -> Spaces:
    return Spaces((), 16, 2, 1)


def success_ends(settings: Settings) -> bool:
    return settings.success_ends


def make(task: Task, settings: Settings) -> TwoStates:
    return TwoStates(task, settings)


class TwoStates(SimEnv):
    def __init__(self, task: Task, settings: Settings) -> None:
        self.task, self.settings, self.spaces = task, settings, spaces(settings)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.observation_space = cast(Any, self.observation_space_for(self.spaces))
        self.state = State()

    def start(self, seed: int) -> float:
        self.state = State()
        return 0.5

    def advance(self, action: Any) -> Outcome:
        before = self.state
        solved = before.solved or float(action[0]) > 0
        self.state = replace(before, solved=solved, steps=before.steps + 1)
        ends = solved and self.settings.success_ends
        late = not ends and self.state.steps >= self.task.max_steps
        paid = SOLVED if solved else self.settings.hover
        return Outcome(paid, ends, late, solved, progress=1.0 if solved else 0.5)

    def observe(self) -> Observation:
        images = np.zeros((0, 16, 16, 3), np.uint8)
        late = self.state.steps / self.task.max_steps
        return Observation(images, np.array([self.state.solved, late], np.float32))

    def snapshot(self) -> State:
        return self.state

    def restore(self, snapshot: object) -> None:
        self.state = cast(State, snapshot)
