"""point_reach with one fault, chosen by a setting: what `vla-rl check` has to find."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vla_rl.envs import point_reach
from vla_rl.envs.point_reach import PointReach, PointState
from vla_rl.sim import Expert, Outcome
from vla_rl.types import Floats, Observation, Spaces, Task


@dataclass(frozen=True)
class Settings:
    fault: str = "Sound"
    """Name of one of the classes below."""


def tasks() -> tuple[Task, ...]:
    red, green, blue = (
        replace(task, suite="tests.user_code.broken_reach") for task in point_reach.tasks()
    )
    return red, green, replace(blue, subgoals=("leave", "arrive"))


def spaces(settings: Settings) -> Spaces:
    return point_reach.spaces(point_reach.Settings())


def make(task: Task, settings: Settings) -> PointReach:
    env: PointReach = globals()[settings.fault](task, point_reach.Settings())
    return env


def expert(task: Task) -> Expert:
    return point_reach.expert(task)


class Sound(PointReach):
    """No fault; tells the true state, and which subgoals were completed."""

    @property
    def privileged(self) -> NDArray[np.float64]:
        state = self.state
        return np.array([state.x, state.y, *np.ravel(state.dots)], np.float64)

    def advance(self, action: Floats) -> Outcome:
        outcome = super().advance(action)
        done = 0b01 | 0b10 * outcome.success
        return outcome._replace(completed=done if self.task.subgoals else 0)


# ------------------------------------------------------------------------------ spaces and frames


class StateOfDoubles(Sound):
    def observe(self) -> Observation:
        seen = super().observe()
        return Observation(seen.images, seen.state.astype(np.float64))  # type: ignore[arg-type]


class TwoViews(Sound):
    def observe(self) -> Observation:
        seen = super().observe()
        return Observation(np.concatenate([seen.images, seen.images]), seen.state)


class StateOfNaN(Sound):
    def observe(self) -> Observation:
        seen = super().observe()
        return Observation(seen.images, seen.state * np.float32(np.nan))


class BlackFrame(Sound):
    def observe(self) -> Observation:
        seen = super().observe()
        return Observation(np.zeros_like(seen.images), seen.state)


class FirstFrameForEver(Sound):
    _seen: NDArray[np.uint8] | None = None

    def observe(self) -> Observation:
        seen = super().observe()
        if self._seen is None:
            self._seen = seen.images
        return Observation(self._seen.copy(), seen.state)


class FrameOfTheStart(Sound):
    def start(self, seed: int) -> float:
        progress = super().start(seed)
        self._seen = super().observe().images
        return progress

    def observe(self) -> Observation:
        return Observation(self._seen.copy(), super().observe().state)


class NoRender(Sound):
    def render(self) -> NDArray[np.uint8]:  # type: ignore[override]
        raise NotImplementedError


class LooksWhenAdvancing(Sound):
    def advance(self, action: Floats) -> Outcome:
        outcome = super().advance(action)
        self.observe()
        return outcome


# -------------------------------------------------------------------------- seeds and snapshots


class UnseededStart(Sound):
    def start(self, seed: int) -> float:
        return super().start(int(np.random.default_rng().integers(2**31)))


class UnseededWind(Sound):
    def advance(self, action: Floats) -> Outcome:
        outcome = super().advance(action)
        self.state = replace(self.state, x=self.state.x + np.random.default_rng().normal(0, 0.01))
        return outcome


class OneStart(Sound):
    def start(self, seed: int) -> float:
        return super().start(0)


class TwoStarts(Sound):
    def start(self, seed: int) -> float:
        return super().start(seed % 2)


class NearlyOneStart(Sound):
    def start(self, seed: int) -> float:
        progress = super().start(0)
        self.state = replace(self.state, x=self.state.x + 1e-6 * seed)
        return progress


class SnapshotWithoutClock(Sound):
    def restore(self, snapshot: object) -> None:
        steps = self.state.steps
        super().restore(snapshot)
        self.state = replace(self.state, steps=steps)


class SnapshotWithoutStart(Sound):
    def restore(self, snapshot: object) -> None:
        began = self.state.initial_distance
        super().restore(snapshot)
        self.state = replace(self.state, initial_distance=began)


class SharedSnapshot(Sound):
    """A snapshot that is no copy: it moves on with the environment it was taken from."""

    def __init__(self, task: Task, settings: point_reach.Settings) -> None:
        self._box: list[PointState] = []
        super().__init__(task, settings)

    def advance(self, action: Floats) -> Outcome:
        outcome = super().advance(action)
        self._box[:] = [self.state]
        return outcome

    def snapshot(self) -> object:  # type: ignore[override]
        self._box[:] = [self.state]
        return self._box

    def restore(self, snapshot: object) -> None:
        assert isinstance(snapshot, list)
        super().restore(snapshot[0])


class NotRestorable(Sound):
    restorable = False

    def snapshot(self) -> PointState:
        raise RuntimeError("the simulator cannot be copied")


# ------------------------------------------------------------------------ actions and outcomes


class Unclipped(Sound):
    def advance(self, action: Floats) -> Outcome:
        before = self.state
        outcome = super().advance(action)
        self.state = replace(self.state, x=before.x + point_reach.SPEED * float(action[0]))
        return outcome


class AcceptsNaN(Sound):
    def advance(self, action: Floats) -> Outcome:
        return super().advance(np.nan_to_num(action))


class ProgressBelowZero(Sound):
    def advance(self, action: Floats) -> Outcome:
        outcome = super().advance(action)
        return outcome._replace(progress=2 * outcome.progress - 1)


class SuccessWithoutProgress(Sound):
    def advance(self, action: Floats) -> Outcome:
        outcome = super().advance(action)
        return outcome._replace(progress=0.9 * outcome.progress)


class RewardOfNaN(Sound):
    def advance(self, action: Floats) -> Outcome:
        return super().advance(action)._replace(reward=float("nan"))


class NumpyFlags(Sound):
    def advance(self, action: Floats) -> Outcome:
        outcome = super().advance(action)
        return outcome._replace(success=np.bool_(outcome.success))  # type: ignore[arg-type]


class GymnasiumTuple(Sound):
    def advance(self, action: Floats) -> Outcome:
        outcome = super().advance(action)
        return outcome.reward, outcome.terminated, outcome.truncated, {}  # type: ignore[return-value]


class BothEnds(Sound):
    def advance(self, action: Floats) -> Outcome:
        outcome = super().advance(action)
        return outcome._replace(truncated=outcome.terminated or outcome.truncated)


class MergedEnds(Sound):
    def advance(self, action: Floats) -> Outcome:
        outcome = super().advance(action)
        done = outcome.terminated or outcome.truncated
        return outcome._replace(terminated=done, truncated=False)


class ClockOfItsOwn(Sound):
    def __init__(self, task: Task, settings: point_reach.Settings) -> None:
        super().__init__(replace(task, max_steps=20), settings)


class EarlyClock(Sound):
    def advance(self, action: Floats) -> Outcome:
        outcome = super().advance(action)
        late = self.state.steps >= self.task.max_steps - 1
        return outcome._replace(truncated=late and not outcome.terminated)


class ForgetsSubgoals(Sound):
    def advance(self, action: Floats) -> Outcome:
        return super().advance(action)._replace(completed=self.state.steps % 2)


class StrangeSubgoals(Sound):
    def advance(self, action: Floats) -> Outcome:
        return super().advance(action)._replace(completed=0b100)


class SuccessWithoutSubgoals(Sound):
    def advance(self, action: Floats) -> Outcome:
        return super().advance(action)._replace(completed=0b01)


# ----------------------------------------------------------------------------------- breaking


class CannotBeMade(Sound):
    def __init__(self, task: Task, settings: point_reach.Settings) -> None:
        raise RuntimeError("no licence for the simulator")


class BreaksWhenAdvancing(Sound):
    def advance(self, action: Floats) -> Outcome:
        raise KeyError("gripper")
