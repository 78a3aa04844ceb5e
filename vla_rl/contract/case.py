"""A task under test: its environments, short episodes in them, and comparing two episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_rl.sim import Outcome, SimEnv
from vla_rl.types import Floats, Observation, Task, seed_for

NEARLY_FIXED = 0.01
"""Starts are nearly fixed if their numbers differ by less than this share of what ten random
actions change."""
LAST_DIGITS = 1e-9
"""Relative difference below which numbers count as equal: in some libraries the order of sums
depends on memory addresses."""


@dataclass
class Case:
    """One task of a suite.

    Attributes:
        suite: Module of the suite.
        settings: The suite's ``Settings``.
        task: The task.
        count: Number of starts to check.
    """

    suite: ModuleType
    settings: Any
    task: Task
    count: int
    _made: list[SimEnv] = field(default_factory=list)

    @property
    def env(self) -> SimEnv:
        """An environment of the task; always the same one."""
        return self._first(1)[0]

    @property
    def pair(self) -> tuple[SimEnv, SimEnv]:
        """Two environments of the task, made separately."""
        one, two = self._first(2)
        return one, two

    @property
    def seeds(self) -> list[int]:
        """Seeds of the starts to check: the first ones of demonstrations."""
        return [seed_for("demo", index) for index in range(self.count)]

    @property
    def other_seed(self) -> int:
        """A seed that is not among :attr:`seeds`."""
        return seed_for("demo", self.count)

    def with_horizon(self, max_steps: int) -> Case:
        """A case of the same task with another horizon and new environments."""
        return Case(self.suite, self.settings, replace(self.task, max_steps=max_steps), self.count)

    def close(self) -> None:
        """Close the environments."""
        while self._made:
            self._made.pop().close()

    def _first(self, count: int) -> list[SimEnv]:
        while len(self._made) < count:
            self._made.append(self.suite.make(self.task, self.settings))
        return self._made[:count]


class Look(NamedTuple):
    """The observation of a state by a policy, and the ``[P]`` numbers that an expert observes."""

    observation: Observation
    privileged: NDArray[np.float64]


class Played(NamedTuple):
    """Some steps of an episode: their outcomes, and the observations before and after."""

    first: Look
    outcomes: list[Outcome]
    last: Look


def look(env: SimEnv) -> Look:
    """Observe a state and copy the arrays, which an environment may reuse."""
    seen = env.observe()
    copied = Observation(seen.images.copy(), seen.state.copy())
    return Look(copied, np.array(env.privileged, np.float64))


def numbers(seen: Look) -> NDArray[np.float64]:
    """``[S + P]`` proprioception and true state."""
    return np.concatenate([seen.observation.state, seen.privileged], dtype=np.float64)


def largest(change: NDArray[np.float64]) -> float:
    """The largest absolute value; 0 for none."""
    return float(np.abs(change).max(initial=0.0))


def random_actions(env: SimEnv, steps: int, seed: int) -> Floats:
    """``[steps, A]`` uniform in [-1, 1]."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (steps, env.spaces.action_dim)).astype(np.float32)


def unseen(env: SimEnv) -> Look:
    """An empty look, for checks that need none: it saves the time of rendering."""
    return Look(Observation(np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0, np.float32)), np.zeros(0))


def play(env: SimEnv, actions: Floats, looking: Callable[[SimEnv], Look] = look) -> Played:
    """Take ``[L, A]`` actions from the current state, or fewer if the episode ends."""
    first = looking(env)
    outcomes = []
    for action in actions:
        outcomes.append(env.advance(action))
        if outcomes[-1].terminated or outcomes[-1].truncated:
            break
    return Played(first, outcomes, looking(env))


def difference(a: Played, b: Played, tolerance: float = LAST_DIGITS) -> str:
    """Describe the first difference between two episodes; empty if they are equal.

    Frames, flags and counts must be equal, other numbers up to a relative tolerance.
    """
    return (
        _between_looks("at first", a.first, b.first, tolerance)
        or _between_outcomes(a.outcomes, b.outcomes, tolerance)
        or _between_looks(f"after {len(a.outcomes)} steps", a.last, b.last, tolerance)
    )


def _between_outcomes(a: Sequence[Outcome], b: Sequence[Outcome], tolerance: float) -> str:
    for step, (left, right) in enumerate(zip(a, b, strict=False), start=1):
        for name, x, y in zip(Outcome._fields, left, right, strict=True):
            if not _equal(x, y, tolerance):
                return f"{name} of step {step} is {x} and then {y}"
    return "" if len(a) == len(b) else f"it ends after {len(a)} steps and then after {len(b)}"


def _between_looks(when: str, a: Look, b: Look, tolerance: float) -> str:
    for name, x, y in (
        ("images", a.observation.images, b.observation.images),
        ("state", a.observation.state, b.observation.state),
        ("privileged", a.privileged, b.privileged),
    ):
        if not _equal(x, y, tolerance):
            return f"{when}, {name} {_apart(x, y)}"
    return ""


def _equal(x: Any, y: Any, tolerance: float) -> bool:
    # Numbers that are not finite are reported by another check.
    if np.array_equal(x, y, equal_nan=True):
        return True
    real = np.result_type(x, y).kind == "f" and np.shape(x) == np.shape(y)
    return real and np.allclose(x, y, rtol=tolerance, atol=0.0, equal_nan=True)


def _apart(x: NDArray[Any], y: NDArray[Any]) -> str:
    if x.shape != y.shape:
        return f"has the shapes {x.shape} and {y.shape}"
    if x.dtype == np.uint8:
        pixels = (x != y).any(axis=-1)
        return f"differ in {pixels.sum()} of {pixels.size} pixels"
    return f"differs by up to {np.nanmax(np.abs(x - y)):.3g}"
