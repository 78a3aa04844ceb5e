"""Any Gymnasium environment by its id, without a file: ``gym:CartPole-v1``.

The environment becomes a suite of one task. Its observation is split into images and a state, its
actions are mapped to [-1, 1], and success is defined by the environment or the settings.
Packages that register their environments at import are found by the id's namespace
(``gym:gym_pusht/PushT-v0``) or named before it (``gym:my_package:MyEnv-v0``).

Such an environment cannot be restored to a snapshot, hence every episode in flight has its own; and
what a policy sees and does is known only once one was made, which happens once in a process.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from types import ModuleType
from typing import Any, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray

from vla_rl import gym_spaces
from vla_rl.envs._gym import ids, success_rule
from vla_rl.envs._gym.images import EnvPainter, MujocoPainter, Painter
from vla_rl.envs._gym.plan import FILMED_SIZE, Settings, facts_of, plan_of
from vla_rl.envs._mujoco.gl import choose_gl
from vla_rl.plugins import unknown
from vla_rl.sim import Outcome, SimEnv
from vla_rl.types import Floats, Observation, Spaces, Task

PARAMETER = "ID"

MAX_STEPS = 200
"""Horizon of an environment that is registered without one."""


@functools.cache
def suite(parameter: str) -> ModuleType:
    """The suite of one environment id; nothing is imported or made before it is used."""
    made = ModuleType(__name__, __doc__)
    vars(made).update(
        Settings=Settings,
        PROTOCOLS={},
        tasks=functools.partial(_tasks, parameter),
        spaces=functools.partial(_spaces, parameter),
        make=functools.partial(_make, parameter),
        prepare=functools.partial(_prepare, parameter),
        filmed=functools.partial(_filmed, parameter),
        success_ends=functools.partial(_success_ends, parameter),
    )
    return made


def _tasks(env_id: str) -> tuple[Task, ...]:
    """The one task, with the registered horizon and the words of the id as its instruction.

    Raises:
        ValueError: If the id is unknown.
    """
    steps = ids.find(env_id).max_episode_steps or MAX_STEPS
    return (Task(f"gym:{env_id}", env_id, ids.instruction(env_id), steps),)


def _spaces(env_id: str, settings: Settings) -> Spaces:
    """What a policy sees and does; makes an environment the first time.

    Raises:
        ValueError: If the id is unknown, the environment cannot be made, a setting does not fit it,
            or its actions are of an unsupported kind.
    """
    return plan_of(env_id, settings).spaces


def _make(env_id: str, task: Task, settings: Settings) -> GymEnv:
    """An environment for the task.

    Raises:
        ValueError: As :func:`_spaces`, or if the task is not of this suite.
    """
    if task.id != env_id:
        raise ValueError(unknown(f"task of gym:{env_id}", task.id, [env_id]))
    if task.max_steps < 1:
        raise ValueError(f"max_steps {task.max_steps} of {task.id!r} must be at least 1")
    return GymEnv(task, settings)


def _prepare(env_id: str, settings: Settings) -> str:
    """Choose a GL library if MuJoCo is drawn; returns what draws the images.

    Raises:
        RuntimeError: If MuJoCo is to be drawn and no GL library works, with what to install.
    """
    views = plan_of(env_id, settings).views
    if "mujoco" in views:
        return ": ".join(choose_gl())
    return "the environment" if views else "none"


def _success_ends(env_id: str, settings: Settings) -> bool:
    """Whether success ends an episode; it cannot where nothing counts as a success."""
    plan = plan_of(env_id, settings)
    return plan.success_ends and plan.success.source != "none"


def _filmed(env_id: str, settings: Settings) -> Settings:
    """Settings for videos: one large view, drawn if it can be, else the policy's first.

    Raises:
        ValueError: If there is nothing to see.
    """
    facts = facts_of(env_id, settings.kwargs, seeing=True)
    views = [*facts.drawn, *plan_of(env_id, settings).views]
    if not views:
        raise ValueError(f"gym:{env_id} has no images and cannot render, so there is no video")
    return replace(settings, image=(views[0],), image_size=FILMED_SIZE)


class GymEnv(SimEnv):
    """One Gymnasium environment; made by a suite's ``make``."""

    restorable = False

    def __init__(self, task: Task, settings: Settings) -> None:
        self._plan = plan = plan_of(task.id, settings)
        self.task, self.spaces = task, plan.spaces
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (plan.actions.size,), np.float32)
        self.observation_space = cast(Any, self.observation_space_for(self.spaces))
        self.settings = settings
        self._open()
        self.start(0)

    @property
    def privileged(self) -> NDArray[np.float64]:
        """All numbers of the observation, whichever the policy's state has of them."""
        return gym_spaces.flat(self._plan.numbers, self._seen)

    def start(self, seed: int) -> float:
        """Reset with the seed; returns the progress."""
        if self._plan.leaves_traces:
            self.close()
            self._open()
        self._seen, info = self._env.reset(seed=seed)
        self._steps, self._return = 0, 0.0
        self._ended, self._told = False, False
        return _progress(info, success=False)

    def advance(self, action: Floats) -> Outcome:
        """Clip the action to [-1, 1], map it to the environment's and step.

        Raises:
            ValueError: If the action is not A finite numbers, or an episode ended without the key
                of info that should tell success.
            RuntimeError: If the episode has ended.
        """
        if self._ended:
            raise RuntimeError("the episode has ended; call start() first")
        rule = self._plan.success
        self._seen, paid, terminated, cut, info = self._env.step(
            self._plan.actions.to_env(self.clipped(action))
        )
        reward = float(paid)
        self._steps += 1
        self._return += reward
        self._told = self._told or rule.key in info
        success = rule.met(info, reward, self._return, bool(terminated))
        done = bool(terminated) or (success and self._plan.success_ends)
        truncated = not done and (bool(cut) or self._steps >= self.task.max_steps)
        self._ended = done or truncated
        if self._ended and rule.source == "info" and not self._told:
            raise success_rule.missing(rule.key, self.task.id, info)
        return Outcome(reward, done, truncated, success, _progress(info, success))

    def observe(self) -> Observation:
        """The images of the last observation, or of the scene as it is now, and the state."""
        size = self.spaces.image_size
        images = np.empty((len(self._plan.views), size, size, 3), np.uint8)
        for image, (name, part) in zip(images, self._plan.views.items(), strict=True):
            if part is not None:
                image[:] = gym_spaces.resized(part.image(self._seen), size)
            else:
                assert self._painter is not None, name
                image[:] = self._painter.draw()
        state = gym_spaces.as_state(gym_spaces.flat(self._plan.state, self._seen))
        return Observation(images, state)

    def snapshot(self) -> object:
        """Nothing determines the future but the environment itself."""
        raise RuntimeError(f"gym:{self.task.id} cannot be put away; see SimEnv.restorable")

    def restore(self, snapshot: object) -> None:
        """There are no snapshots."""
        raise RuntimeError(f"gym:{self.task.id} cannot be restored; see SimEnv.restorable")

    def close(self) -> None:
        """Close the environment and free the GL resources."""
        if self._painter is not None:
            self._painter.close()
        self._env.close()

    def _open(self) -> None:
        views, settings = self._plan.views, self.settings
        own = "render" in views
        self._env = ids.make(self.task.id, settings.kwargs, "rgb_array" if own else None)
        self._painter: Painter | None = None
        if own:
            self._painter = EnvPainter(self._env, settings.image_size)
        elif "mujoco" in views:
            kind = (self.task.id, settings.kwargs)
            self._painter = MujocoPainter(self._env, kind, settings.image_size, settings.quality)


def _progress(info: dict[str, Any], success: bool) -> float:
    """1 when solved, else what the environment says, if it says anything."""
    return 1.0 if success else min(max(float(info.get("progress", 0.0)), 0.0), 0.99)
