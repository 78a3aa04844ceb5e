"""Meta-World v3: fifty tabletop tasks of a Sawyer arm, and variants of ten, seen through cameras.

A variant is a change of the simulated model: the thing has other colours, more to its shape, and
stands elsewhere. It has the instruction, score and script of the task that it is a variant of.

The action is a hand displacement of up to 1 cm per axis and step, and a gripper effort. The state
is the hand's position in metres and the opening of the gripper in [0, 1]. Everything about a start
follows from its seed. A GL library is chosen when the first environment with cameras is made.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray

from vla_rl.envs._metaworld import tasks as table
from vla_rl.envs._mujoco.gl import check_frames, choose_gl
from vla_rl.envs._mujoco.renderer import FrameRenderer, mesh_cells
from vla_rl.envs._mujoco.views import View, check_cameras, check_image
from vla_rl.plugins import unknown
from vla_rl.sim import Expert, Outcome, SimEnv
from vla_rl.types import Check, DenseReward, EvalProtocol, Floats, Observation, Spaces, Task

if TYPE_CHECKING:
    from vla_rl.envs._metaworld.fast import FastSawyer

MAX_STEPS = 500
"""Meta-World's own time limit, and the longest that a task may ask for."""

BUCKETS = table.BUCKETS
SPLITS = table.SPLITS
VARIANTS: dict[str, str] = {name: variant.base for name, variant in table.VARIANTS.items()}
PROTOCOLS: dict[str, EvalProtocol] = {
    "metaworld-official": EvalProtocol("metaworld-official", episodes_per_task=50, max_steps=500),
    "metaworld-vla": EvalProtocol(
        "metaworld-vla", episodes_per_task=10, max_steps=400, settings={"cameras": ("corner2",)}
    ),
}

# Meta-World mounts its corner cameras head down.
CAMERAS: dict[str, View] = {
    "topview": View("topview"),
    "corner": View("corner", upside_down=True),
    "corner2": View("corner2", position=(0.75, 0.075, 0.7), upside_down=True),
    "corner2_close": View("corner2", position=(0.932, 0.127, 0.725), fovy=38.0, upside_down=True),
    "corner3": View("corner3", upside_down=True),
    "behindGripper": View("behindGripper"),
    "gripperPOV": View("gripperPOV"),
}
"""Meta-World's cameras; ``corner2`` stands where work on vision-language-action policies puts it,
``corner2_close`` looks the same way at the middle of the table, for small images."""


# At 64 pixels a robot link of 2 cm and an object's edge of 7 mm are smaller than a pixel.
_ROBOT_CELL, _OBJECT_CELL = 0.02, 0.007


@dataclass(frozen=True)
class Settings:
    """Cameras and rendering."""

    cameras: tuple[str, ...] = ("corner2_close", "gripperPOV")
    """Camera views in order: topview, corner, corner2, corner2_close, corner3, behindGripper or
    gripperPOV; none for a policy of the state only."""
    image_size: int = 64
    """Height and width of the images in pixels, 16 to 1024."""
    quality: str = "fast"
    """Rendering quality: fast (simple meshes, no shadows, reflections, antialiasing) or full."""


def tasks() -> tuple[Task, ...]:
    """The fifty tasks, then the variants, with Meta-World's own time limit."""
    own = table.INSTRUCTIONS
    said = own | {name: own[base] for name, base in VARIANTS.items()}
    return tuple(
        Task("metaworld", task_id, instruction, MAX_STEPS) for task_id, instruction in said.items()
    )


def spaces(settings: Settings) -> Spaces:
    """Shapes of observations and actions; needs neither MuJoCo nor a GL library.

    Raises:
        ValueError: If a camera is unknown or listed twice, or the image size or quality is not
            allowed.
    """
    check_cameras(settings.cameras, "Meta-World", CAMERAS)
    check_image(settings.image_size, settings.quality)
    return Spaces(tuple(settings.cameras), settings.image_size, state_dim=4, action_dim=4)


def prepare(settings: Settings) -> str:
    """Choose a GL library for this process and its children; returns which one, and why.

    Raises:
        RuntimeError: If cameras are wanted and no GL library works, with what to install.
    """
    return ": ".join(choose_gl()) if settings.cameras else "none"


def filmed(settings: Settings) -> Settings:
    """Settings for videos: one view from the side, large, as fast as for the policy."""
    return replace(settings, cameras=("corner2",), image_size=240)


def diagnose() -> list[Check]:
    """Whether a GL library works, and whether a real frame of a real task shows something."""
    return check_frames("metaworld")


def make(task: Task, settings: Settings) -> MetaWorld:
    """An environment for one task.

    Raises:
        ValueError: If the task is unknown, its ``max_steps`` is not in 1..500, or a setting is bad.
        RuntimeError: If cameras are wanted and no GL library works.
    """
    return MetaWorld(task, settings)


def expert(task: Task) -> Expert:
    """Meta-World's scripted policy for the task; most solve nearly every start in 200 steps.

    A variant has that of its base.

    Raises:
        ValueError: If the task is unknown.
    """
    _check_task(task)
    from metaworld.policies import ENV_POLICY_MAP

    scripted: Any = ENV_POLICY_MAP[_base(task)]()  # type: ignore[abstract]

    def act(env: SimEnv) -> Floats:
        with warnings.catch_warnings():
            # It remarks that actions are larger than 1; they are clipped here.
            warnings.simplefilter("ignore")
            wanted = scripted.get_action(cast(MetaWorld, env).privileged)
        return cast(Floats, np.clip(wanted, -1.0, 1.0).astype(np.float32))

    return act


def dense_reward(task: Task) -> DenseReward:
    """Meta-World's reward (version 2) is 10 for a step in which the task is solved."""
    return DenseReward(scale=1 / (10 * task.max_steps), solved_step=10.0)


class Snapshot(NamedTuple):
    """All that determines the future of an episode.

    Attributes:
        physics: MuJoCo's integration state.
        placed: Positions of the model's bodies and sites, which Meta-World moves at a start.
        attributes: Plain values and arrays of Meta-World's environment.
        initial_remaining: Distance from success at the start, in the task's own measure.
    """

    physics: NDArray[np.float64]
    placed: tuple[NDArray[np.float64], NDArray[np.float64]]
    attributes: dict[str, Any]
    initial_remaining: float


class MetaWorld(SimEnv):
    """One task of the suite; made by :func:`make`."""

    def __init__(self, task: Task, settings: Settings) -> None:
        self.spaces = spaces(settings)
        _check_task(task)
        if self.spaces.views:
            choose_gl()
        import mujoco

        from vla_rl.envs._metaworld.fast import make_sawyer

        self._mujoco = mujoco
        self.task, self.settings = task, settings
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.observation_space = cast(Any, self.observation_space_for(self.spaces))
        base = _base(task)
        self._sawyer: FastSawyer = make_sawyer(base, table.VARIANTS.get(task.id))
        self._remaining_of: Callable[[Any, Any], float] | None = table.REMAINING.get(base)
        self._state_kind = int(mujoco.mjtState.mjSTATE_INTEGRATION.value)
        self._state_size = mujoco.mj_stateSize(self._sawyer.model, self._state_kind)
        self._initial_remaining = math.inf
        self._untouched = self.snapshot()
        self._renderer: FrameRenderer | None = None
        self.start(0)

    @property
    def privileged(self) -> NDArray[np.float64]:
        """Meta-World's own 39 numbers, goal and object poses included, for experts only."""
        return cast("NDArray[np.float64]", self._sawyer._last_stable_obs)

    def start(self, seed: int) -> float:
        """Go to the initial state of ``seed``; returns its progress."""
        sawyer = self._sawyer
        # Meta-World leaves traces of earlier episodes in its environment.
        self.restore(self._untouched)
        sawyer.seed(seed)
        sawyer.reset()
        self._refresh()
        sawyer.look_again()
        before = self.snapshot()
        _, info = sawyer.evaluate_state(self.privileged, np.zeros(4, np.float32))
        self._set_attributes(before.attributes)
        self._initial_remaining = max(self._remaining(info), 1e-9)
        return self._progress(info)

    def advance(self, action: Floats) -> Outcome:
        """Clip the action to [-1, 1] and simulate 5 physics steps of 2.5 ms.

        Solving the task ends the episode, but the simulation may be continued until the time limit.

        Raises:
            ValueError: If the action is not four finite numbers.
            RuntimeError: If the time limit has already ended the episode.
        """
        sawyer = self._sawyer
        if sawyer.curr_path_length >= self.task.max_steps:
            raise RuntimeError("the episode has ended; call start() or restore() first")
        wanted = np.asarray(action, np.float32)
        if wanted.shape != (4,) or not np.isfinite(wanted).all():
            raise ValueError(f"an action must be 4 finite numbers, got {action!r}")
        reward, info = sawyer.advance(np.minimum(np.maximum(wanted, -1.0), 1.0))
        success = bool(info["success"])
        return Outcome(
            reward=reward,
            terminated=success,
            truncated=not success and sawyer.curr_path_length >= self.task.max_steps,
            success=success,
            progress=self._progress(info),
        )

    def observe(self) -> Observation:
        """Render the views and read the hand's position and the gripper's opening."""
        return Observation(self._images(), self.privileged[:4].astype(np.float32))

    def snapshot(self) -> Snapshot:
        """Everything that determines the future."""
        sawyer = self._sawyer
        physics = np.empty(self._state_size)
        self._mujoco.mj_getState(sawyer.model, sawyer.data, physics, self._state_kind)
        placed = (sawyer.model.body_pos.copy(), sawyer.model.site_pos.copy())
        return Snapshot(physics, placed, _plain_attributes(sawyer), self._initial_remaining)

    def restore(self, snapshot: object) -> None:
        """Return to a snapshot of this environment or of another one of the same task."""
        saved, sawyer = cast(Snapshot, snapshot), self._sawyer
        sawyer.model.body_pos[:], sawyer.model.site_pos[:] = saved.placed
        self._set_attributes(saved.attributes)
        self._initial_remaining = saved.initial_remaining
        self._put(saved.physics)

    def close(self) -> None:
        """Free the GL resources."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _images(self) -> NDArray[np.uint8]:
        if not self.spaces.views:
            size = self.spaces.image_size
            return np.empty((0, size, size, 3), np.uint8)
        if self._renderer is None:
            # Not before the first look: fifty renderers of large frames need much memory.
            model, size = self._sawyer.model, self.spaces.image_size
            self._renderer = FrameRenderer(
                model,
                self._sawyer.data,
                [CAMERAS[name] for name in self.spaces.views],
                size,
                self.settings.quality,
                mesh_cells(model, "hand", size, _ROBOT_CELL, _OBJECT_CELL),
            )
        return self._renderer.render()

    def _refresh(self) -> None:
        """Compute all positions from the present state without changing it."""
        physics = np.empty(self._state_size)
        self._mujoco.mj_getState(self._sawyer.model, self._sawyer.data, physics, self._state_kind)
        self._put(physics)

    def _put(self, physics: NDArray[np.float64]) -> None:
        mujoco, model, data = self._mujoco, self._sawyer.model, self._sawyer.data
        mujoco.mj_setState(model, data, physics, self._state_kind)
        mujoco.mj_forward(model, data)
        # mj_forward overwrites the solver's warm start, which is part of the state.
        mujoco.mj_setState(model, data, physics, self._state_kind)

    def _set_attributes(self, attributes: dict[str, Any]) -> None:
        fields = self._sawyer.__dict__
        for name, value in attributes.items():
            fields[name] = value.copy() if isinstance(value, np.ndarray) else value

    def _remaining(self, info: dict[str, Any]) -> float:
        if self._remaining_of is None:
            return float(info["obj_to_target"])
        return self._remaining_of(self._sawyer, self.privileged)

    def _progress(self, info: dict[str, Any]) -> float:
        if info["success"]:
            return 1.0
        # Success may need more than the distance, so that 1 is kept for it.
        return min(max(1.0 - self._remaining(info) / self._initial_remaining, 0.0), 0.99)


def _base(task: Task) -> str:
    """Meta-World's name of a task or of what it is a variant of."""
    return VARIANTS.get(task.id, task.id)


def _check_task(task: Task) -> None:
    if _base(task) not in table.INSTRUCTIONS:
        raise ValueError(unknown("Meta-World task", task.id, [*table.INSTRUCTIONS, *VARIANTS]))
    if not 1 <= task.max_steps <= MAX_STEPS:
        raise ValueError(f"max_steps {task.max_steps} of {task.id!r} is outside 1..{MAX_STEPS}")


_PLAIN = (bool, int, float, str, tuple, type(None), np.generic)


def _plain_attributes(sawyer: FastSawyer) -> dict[str, Any]:
    """Values and own arrays of the environment; views into MuJoCo's data follow by themselves."""
    kept: dict[str, Any] = {}
    for name, value in sawyer.__dict__.items():
        if isinstance(value, np.ndarray):
            if _owns_memory(value):
                kept[name] = value.copy()
        elif isinstance(value, _PLAIN):
            kept[name] = value
    return kept


def _owns_memory(array: NDArray[Any]) -> bool:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return bool(array.flags.owndata)
