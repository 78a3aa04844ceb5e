"""Franka Kitchen in MuJoCo: one scene for many tasks."""

from __future__ import annotations

import contextlib
import io
import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray

from vla_rl.envs._kitchen.tasks import BASES, ELEMENTS, SEQUENCES, VARIANTS
from vla_rl.envs._mujoco import renderer
from vla_rl.envs._mujoco.gl import choose_gl
from vla_rl.envs._mujoco.renderer import FrameRenderer
from vla_rl.envs._mujoco.variants import Variant, model_of
from vla_rl.envs._mujoco.views import AnyView, BodyView, FreeView, check_cameras, check_image
from vla_rl.plugins import unknown
from vla_rl.sim import Outcome, SimEnv
from vla_rl.types import Floats, Observation, Spaces, Task

CAMERAS: dict[str, AnyView] = {
    "fixed": FreeView(lookat=(-0.2, 0.5, 2.0), distance=2.2, azimuth=70.0, elevation=-35.0),
    "close": FreeView(lookat=(-0.36, 0.45, 2.08), distance=1.6, azimuth=55.0, elevation=-28.0),
    "wrist": BodyView(
        "panda0_link7",
        position=(0.06, -0.06, 0.03),
        forward=(0.0, 0.0, 1.0),
        up=(1.0, -1.0, 0.0),
        fovy=75.0,
    ),
}
"""``fixed`` is the benchmark's own view, ``close`` the same side from nearer, for small images, and
``wrist`` looks past the fingers."""


# Shapes of 3 cm are about a pixel of 64. The kitchen's own meshes are coarse.
_ROBOT_CELL = 0.03


@dataclass(frozen=True)
class Settings:
    """Cameras, rendering, and the variation of starts."""

    cameras: tuple[str, ...] = ("close", "wrist")
    """Camera views in order: fixed, close or wrist; none for a policy of the state only."""
    image_size: int = 64
    """Height and width of the images in pixels, 16 to 1024."""
    quality: str = "fast"
    """Rendering quality: fast (simple meshes, no shadows, reflections, antialiasing) or full."""
    start_noise: float = 0.1
    """Standard deviation of the Gaussian noise on the arm's seven joints at a start, in radians,
    from 0 to 0.2; truncated at twice that and at the joints' limits."""
    kettle_noise: float = 0.02
    """Largest displacement of the kettle at a start, along each side of the stove, in metres, from
    0 to 0.05."""


def spaces(settings: Settings) -> Spaces:
    """Shapes of observations and actions; needs neither MuJoCo nor a GL library.

    Raises:
        ValueError: If a camera is unknown or listed twice, or another setting is not allowed.
    """
    check_cameras(settings.cameras, "Franka Kitchen", CAMERAS)
    check_image(settings.image_size, settings.quality)
    if not 0.0 <= settings.start_noise <= 0.2:
        raise ValueError(f"start_noise {settings.start_noise} is outside 0..0.2 rad")
    if not 0.0 <= settings.kettle_noise <= 0.05:
        raise ValueError(f"kettle_noise {settings.kettle_noise} is outside 0..0.05 m")
    return Spaces(tuple(settings.cameras), settings.image_size, state_dim=9, action_dim=9)


class Snapshot(NamedTuple):
    """All that determines the future of an episode.

    Attributes:
        physics: MuJoCo's integration state.
        observed: ``[9]`` joint positions as last observed, from which actions count.
        noise: State of the generator of the observation noise.
        initial: Distance of each element from its goal at the start.
        done: Bit i is set once element i has been completed.
        steps: Steps taken.
    """

    physics: NDArray[np.float64]
    observed: NDArray[np.float64]
    noise: Any
    initial: tuple[float, ...]
    done: int
    steps: int


class FrankaKitchen(SimEnv):
    """One task of the suite; made by :func:`make`.

    Attributes:
        model: The simulated model, which all environments of a process share; variants have one
            each.
        done: Bit i is set once element i of the task has been completed in this episode.
        steps: Steps taken in this episode.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}

    def __init__(self, task: Task, settings: Settings) -> None:
        self.spaces = spaces(settings)
        self.elements_of = elements_of(task)
        if task.max_steps < 1:
            raise ValueError(f"max_steps {task.max_steps} of {task.id!r} must be at least 1")
        if self.spaces.views:
            choose_gl()
        import mujoco

        self._mujoco, self._stock = mujoco, _stock(VARIANTS.get(task.id))
        self.task, self.settings = task, settings
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (9,), np.float32)
        self.observation_space = cast(Any, self.observation_space_for(self.spaces))
        self.model = self._stock.model
        self._data = mujoco.MjData(self.model)
        self._goals = [self._stock.goals[name] for name in self.elements_of]
        self._state_kind = int(mujoco.mjtState.mjSTATE_INTEGRATION.value)
        self._state_size = mujoco.mj_stateSize(self.model, self._state_kind)
        self._renderer: FrameRenderer | None = None
        self.start(0)

    @property
    def privileged(self) -> NDArray[np.float64]:
        """``[59]`` the true state: positions and velocities of the robot, then of the objects."""
        qpos, qvel = self._data.qpos, self._data.qvel
        return np.concatenate([qpos[:9], qvel[:9], qpos[9:], qvel[9:]])

    def start(self, seed: int) -> float:
        """Go to the initial state of ``seed``; returns its progress, 0."""
        # The noise is the stock environment's for this seed; the start is drawn apart from it.
        self._noise = np.random.default_rng(seed)
        draw = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
        self._mujoco.mj_resetData(self.model, self._data)
        self._data.qpos[:] = self._stock.displaced(draw, self.settings)
        self._mujoco.mj_forward(self.model, self._data)
        self._observe_joints()
        self.done = self.steps = 0
        self._initial = tuple(self._distance(index) for index in range(len(self.elements_of)))
        return 0.0

    def advance(self, action: Floats) -> Outcome:
        """Clip the action to [-1, 1] and simulate 40 physics steps of 2 ms.

        Solving the task ends the episode, but the simulation may be continued until the time limit.

        Raises:
            ValueError: If the action is not nine finite numbers.
            RuntimeError: If the time limit has already ended the episode.
        """
        if self.steps >= self.task.max_steps:
            raise RuntimeError("the episode has ended; call start() or restore() first")
        self._data.ctrl[:] = self._stock.target(self._observed, self.clipped(action))
        self._mujoco.mj_step(self.model, self._data, nstep=self._stock.substeps)
        self._observe_joints()
        self.steps += 1
        reward = self._count_completed()
        success = self.done == (1 << len(self.elements_of)) - 1
        return Outcome(
            reward=float(reward),
            terminated=success,
            truncated=not success and self.steps >= self.task.max_steps,
            success=success,
            progress=1.0 if success else self._progress(),
            completed=self.done if self.task.subgoals else 0,
        )

    def observe(self) -> Observation:
        """Render the views and tell the observed joint positions."""
        return Observation(self._images(), self._observed.astype(np.float32))

    def snapshot(self) -> Snapshot:
        """Everything that determines the future."""
        physics = np.empty(self._state_size)
        self._mujoco.mj_getState(self.model, self._data, physics, self._state_kind)
        noise = self._noise.bit_generator.state
        return Snapshot(physics, self._observed, noise, self._initial, self.done, self.steps)

    def restore(self, snapshot: object) -> None:
        """Return to a snapshot of this environment or of another one of the same task."""
        saved = cast(Snapshot, snapshot)
        # Places in the world are computed from this where they are needed.
        self._mujoco.mj_setState(self.model, self._data, saved.physics, self._state_kind)
        self._noise.bit_generator.state = saved.noise
        self._observed, self._initial = saved.observed, saved.initial
        self.done, self.steps = saved.done, saved.steps

    def close(self) -> None:
        """Free the GL resources."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _images(self) -> NDArray[np.uint8]:
        size = self.spaces.image_size
        if not self.spaces.views:
            return np.empty((0, size, size, 3), np.uint8)
        if self._renderer is None:
            self._renderer = FrameRenderer(
                self.model,
                self._data,
                [CAMERAS[name] for name in self.spaces.views],
                size,
                self.settings.quality,
                renderer.mesh_cells(self.model, "panda0_link7", size, _ROBOT_CELL, object_cell=0.0),
            )
        # A step leaves the places of the physics step before. Unlike mj_forward, these two change
        # nothing that the next step starts from.
        self._mujoco.mj_kinematics(self.model, self._data)
        self._mujoco.mj_camlight(self.model, self._data)
        return self._renderer.render()

    def _observe_joints(self) -> None:
        # Stock also draws noise for velocities and objects, which no policy of ours is shown.
        noise = self._noise.uniform(-1.0, 1.0, 59)
        self._observed = self._data.qpos[:9] + self._stock.noise_scale * noise[:9]

    def _count_completed(self) -> int:
        """Note the elements that were completed in this step; returns how many."""
        before = self.done
        for index in range(len(self.elements_of)):
            if not before >> index & 1 and self._distance(index) < self._stock.threshold:
                self.done |= 1 << index
        return (before ^ self.done).bit_count()

    def _distance(self, index: int) -> float:
        places, goal = self._goals[index]
        apart = self._data.qpos[places] - goal
        return math.sqrt(apart.dot(apart))

    def _progress(self) -> float:
        """The share of the elements that are done, the next one counting for its way so far."""
        following = next(i for i in range(len(self.elements_of)) if not self.done >> i & 1)
        threshold = self._stock.threshold
        left = self._distance(following) - threshold
        share = 1.0 - left / (self._initial[following] - threshold)
        # 1 is kept for success.
        return (self.done.bit_count() + min(max(share, 0.0), 0.99)) / len(self.elements_of)


def elements_of(task: Task) -> tuple[str, ...]:
    name = BASES.get(task.id, task.id)
    if name in ELEMENTS:
        return (name,)
    if name not in SEQUENCES:
        every = [*ELEMENTS, *SEQUENCES, *BASES]
        raise ValueError(unknown("Franka Kitchen task", task.id, every))
    return SEQUENCES[name]


@dataclass(frozen=True)
class _Stock:
    """What is taken over from the stock environment.

    Attributes:
        model: Its MuJoCo model, never changed.
        path: The XML file of the model.
        qpos: ``[30]`` its start.
        low: ``[9]`` lowest position that each actuator may be sent to.
        high: ``[9]`` highest position that each actuator may be sent to.
        speed: ``[9]`` velocity that an action of 1 asks for, in rad/s or m/s.
        substeps: Physics steps in one step.
        seconds: Simulated time of one step.
        noise_scale: ``[9]`` largest error of an observed joint position.
        goals: For each element, the places in ``qpos`` that count and their goal.
        threshold: An element is completed when it is nearer to its goal than this.
    """

    model: Any
    path: str
    qpos: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    speed: NDArray[np.float64]
    substeps: int
    seconds: float
    noise_scale: NDArray[np.float64]
    goals: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]
    threshold: float

    def target(
        self, observed: NDArray[np.float64], action: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """``[9]`` positions that the actuators are sent to by a ``[9]`` action in [-1, 1]."""
        wanted = observed + action * self.speed * self.seconds
        return np.minimum(np.maximum(wanted, self.low), self.high)

    def displaced(self, draw: np.random.Generator, settings: Settings) -> NDArray[np.float64]:
        """``[30]`` a start: the arm's joints and the kettle moved a little."""
        qpos = self.qpos.copy()
        arm = qpos[:7] + settings.start_noise * np.clip(draw.standard_normal(7), -2.0, 2.0)
        low, high = self.model.jnt_range[:7].T
        # The stock start is itself 5 mrad beyond a limit.
        qpos[:7] = np.clip(arm, np.minimum(low, qpos[:7]), np.maximum(high, qpos[:7]))
        kettle = int(self.goals["kettle"][0][0])
        qpos[kettle : kettle + 2] += settings.kettle_noise * draw.uniform(-1.0, 1.0, 2)
        return qpos


@cache
def _stock(variant: Variant | None) -> _Stock:
    """Load ``FrankaKitchen-v1`` (half a second) for all environments of this process.

    A variant differs in the model only: goals are positions of joints, which move with their body.
    """
    if variant is not None:
        unchanged = _stock(None)
        return replace(unchanged, model=model_of(variant, unchanged.path))
    # Importing the package prints a remark about hands that are not used here.
    with contextlib.redirect_stderr(io.StringIO()):
        from gymnasium_robotics.envs.franka_kitchen import kitchen_env
    kitchen = kitchen_env.KitchenEnv()
    robot = kitchen.robot_env
    goals = {
        name: (
            kitchen_env.OBS_ELEMENT_INDICES[name.replace("-", " ")],
            kitchen_env.OBS_ELEMENT_GOALS[name.replace("-", " ")],
        )
        for name in ELEMENTS
    }
    return _Stock(
        model=kitchen.model,
        path=robot.fullpath,
        qpos=robot.init_qpos,
        low=robot.robot_pos_bound[:9, 0],
        high=robot.robot_pos_bound[:9, 1],
        speed=robot.act_rng,
        substeps=robot.frame_skip,
        seconds=robot.dt,
        noise_scale=robot.robot_noise_ratio * robot.robot_pos_noise_amp[:9],
        goals=goals,
        threshold=kitchen_env.BONUS_THRESH,
    )
