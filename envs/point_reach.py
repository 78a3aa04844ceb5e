"""A stand-in suite for tests and documentation: a point that flies to the dot of a named colour.

It needs no simulator and no GL library, starts at once and runs tens of thousands of steps per
second. It is **not a benchmark**: use it to check that a policy, an algorithm or a reward works at
all. Three coloured dots are always in view and only the instruction says which one is the goal, so
a policy that ignores language cannot solve it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray

from vla_rl.plugins import unknown
from vla_rl.sim import Expert, Outcome, SimEnv
from vla_rl.types import DenseReward, EvalProtocol, Floats, Observation, Spaces, Task

MAX_STEPS = 20
SPEED = 0.2
"""How far a full action moves the point in one step; the square is 2 wide."""
GOAL_RADIUS = 0.15
"""The point is at the goal when it is nearer than this."""

_COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (230, 60, 50),
    "green": (60, 200, 80),
    "blue": (70, 110, 240),
}
_BACKGROUND, _POINT_COLOUR = (24, 24, 28), (250, 250, 250)
_DRAWN_RADIUS = 0.17
_MIN_GAP = 0.6
_SMALLEST_IMAGE, _LARGEST_IMAGE = 8, 256

BUCKETS: dict[str, tuple[str, ...]] = {"all": tuple(_COLOURS)}
PROTOCOLS: dict[str, EvalProtocol] = {
    "point-reach": EvalProtocol("point-reach", episodes_per_task=20, max_steps=MAX_STEPS)
}


@dataclass(frozen=True)
class Settings:
    """Size of the image."""

    image_size: int = 16
    """Height and width of the image in pixels, 8 to 256."""


def tasks() -> tuple[Task, ...]:
    """One task for each colour of dot."""
    return tuple(
        Task("point_reach", colour, f"go to the {colour} dot", MAX_STEPS) for colour in _COLOURS
    )


def spaces(settings: Settings) -> Spaces:
    """One view from above, the point's own position, and a velocity.

    Raises:
        ValueError: If the image size is not in 8..256.
    """
    if not _SMALLEST_IMAGE <= settings.image_size <= _LARGEST_IMAGE:
        raise ValueError(
            f"image_size {settings.image_size} is outside {_SMALLEST_IMAGE}..{_LARGEST_IMAGE}"
        )
    return Spaces(views=("top",), image_size=settings.image_size, state_dim=2, action_dim=2)


def make(task: Task, settings: Settings) -> PointReach:
    """An environment for one task.

    Raises:
        ValueError: If the task is unknown, its horizon is not positive, or a setting is bad.
    """
    return PointReach(task, settings)


def dense_reward(task: Task) -> DenseReward:
    """The distance gained, and 1 at the goal; both are paid once."""
    return DenseReward(solved_step=0.0)


def expert(task: Task) -> Expert:
    """Flies straight to the goal; solves every start."""
    goal_index = _goal_index(task)

    def act(env: SimEnv) -> Floats:
        state = cast(PointReach, env).state
        x, y = state.dots[goal_index]
        offset = np.array([x - state.x, y - state.y], np.float32)
        return cast(Floats, np.clip(offset / SPEED, -1.0, 1.0))

    return act


@dataclass(frozen=True)
class PointState:
    """Where everything is: the whole state of an episode, in a square from -1 to 1.

    Attributes:
        x: The point's position to the right.
        y: The point's position upwards.
        dots: Position of each colour's dot, in the order of the tasks.
        initial_distance: Distance from the point to the goal at the start.
        steps: Steps taken.
    """

    x: float
    y: float
    dots: tuple[tuple[float, float], ...]
    initial_distance: float
    steps: int


class PointReach(SimEnv):
    """One task of the suite; made by :func:`make`."""

    def __init__(self, task: Task, settings: Settings) -> None:
        self.spaces = spaces(settings)
        self._goal_index = _goal_index(task)
        if task.max_steps < 1:
            raise ValueError(f"max_steps {task.max_steps} of {task.id!r} must be at least 1")
        self.task = task
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = cast(Any, self.observation_space_for(self.spaces))
        self._pixels = _pixel_centres(settings.image_size)
        self.start(0)

    def start(self, seed: int) -> float:
        """Draw the point and the dots from the seed; the progress is 0."""
        rng = np.random.default_rng(seed)
        (x, y), *dots = _spread_out(rng, 1 + len(_COLOURS))
        state = PointState(x, y, tuple(dots), initial_distance=1.0, steps=0)
        self.state = replace(state, initial_distance=self._distance(state))
        return 0.0

    def advance(self, action: Floats) -> Outcome:
        """Fly ``SPEED * action`` and be paid the distance gained, plus 1 at the goal.

        Raises:
            ValueError: If the action is not two finite numbers.
            RuntimeError: If the time limit has already ended the episode.
        """
        before = self.state
        if before.steps >= self.task.max_steps:
            raise RuntimeError("the episode has ended; call start() or restore() first")
        dx, dy = _checked(action)
        after = replace(
            before,
            x=_clip(before.x + SPEED * dx),
            y=_clip(before.y + SPEED * dy),
            steps=before.steps + 1,
        )
        self.state = after
        distance = self._distance(after)
        success = distance < GOAL_RADIUS
        return Outcome(
            reward=self._distance(before) - distance + float(success),
            terminated=success,
            truncated=not success and after.steps >= self.task.max_steps,
            success=success,
            progress=1.0 if success else _share_done(distance, after.initial_distance),
        )

    def observe(self) -> Observation:
        """Draw the dots and, on top of them, the white point."""
        size = self.spaces.image_size
        image = np.empty((size, size, 3), np.uint8)
        image[:] = _BACKGROUND
        state = self.state
        for (x, y), colour in zip(state.dots, _COLOURS.values(), strict=True):
            image[self._disc(x, y, _DRAWN_RADIUS)] = colour
        image[self._disc(state.x, state.y, 0.7 * _DRAWN_RADIUS)] = _POINT_COLOUR
        return Observation(image[None], np.array([state.x, state.y], np.float32))

    @property
    def privileged(self) -> NDArray[np.float64]:
        """``[4]`` position of the point and of its goal."""
        state = self.state
        return np.array([state.x, state.y, *state.dots[self._goal_index]])

    def snapshot(self) -> PointState:
        """The state itself: it is never changed in place."""
        return self.state

    def restore(self, snapshot: object) -> None:
        """Return to a snapshot."""
        self.state = cast(PointState, snapshot)

    def _distance(self, state: PointState) -> float:
        x, y = state.dots[self._goal_index]
        return math.hypot(x - state.x, y - state.y)

    def _disc(self, x: float, y: float, radius: float) -> NDArray[np.bool_]:
        # A disc never falls between the pixels: it covers at least the nearest centre.
        columns, rows = self._pixels
        reach = max(radius, 0.75 * 2 / self.spaces.image_size)
        return (columns - x) ** 2 + (rows - y) ** 2 <= reach * reach


def _goal_index(task: Task) -> int:
    if task.id not in _COLOURS:
        raise ValueError(unknown("point_reach task", task.id, _COLOURS))
    return list(_COLOURS).index(task.id)


def _pixel_centres(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    centres = (np.arange(size) + 0.5) * 2 / size - 1
    return centres[None, :], -centres[:, None]


def _spread_out(rng: np.random.Generator, count: int) -> list[tuple[float, float]]:
    """Points in the square, none nearer to another than ``_MIN_GAP``."""
    points: list[tuple[float, float]] = []
    while len(points) < count:
        x, y = (float(value) for value in rng.uniform(-0.85, 0.85, 2))
        if all(math.hypot(x - px, y - py) >= _MIN_GAP for px, py in points):
            points.append((x, y))
    return points


def _checked(action: Floats) -> tuple[float, float]:
    values = action.tolist() if isinstance(action, np.ndarray) else list(action)
    if len(values) != 2 or not all(math.isfinite(value) for value in values):
        raise ValueError(f"an action must be 2 finite numbers, got {values}")
    return _clip(values[0]), _clip(values[1])


def _clip(value: float) -> float:
    return max(-1.0, min(1.0, value))


def _share_done(distance: float, initial_distance: float) -> float:
    return max(0.0, 1.0 - distance / initial_distance)
