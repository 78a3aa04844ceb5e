"""What draws the images of a Gymnasium environment that does not observe any.

``env.render()`` draws any environment. For Gymnasium's MuJoCo environments the project's own
renderer draws the same view at the policy's size, which is much faster without a GPU.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray

from vla_rl import gym_spaces
from vla_rl.envs._gym.ids import AnyEnv
from vla_rl.envs._mujoco.renderer import FrameRenderer
from vla_rl.envs._mujoco.views import FreeView, View

if TYPE_CHECKING:
    import mujoco


class Physics(NamedTuple):
    """The simulation inside an environment, and the camera that it renders with."""

    model: mujoco.MjModel
    data: mujoco.MjData
    renderer: Any


def physics_of(env: AnyEnv) -> Physics | None:
    """The simulation of one of Gymnasium's MuJoCo environments; None for another environment."""
    # It cannot be one while nothing has imported MuJoCo, which takes a while.
    mujoco = sys.modules.get("mujoco")
    rendering = sys.modules.get("gymnasium.envs.mujoco.mujoco_rendering")
    if mujoco is None or rendering is None:
        return None
    fields = vars(env.unwrapped)
    found = Physics(*(fields.get(name) for name in ("model", "data", "mujoco_renderer")))
    wanted = (mujoco.MjModel, mujoco.MjData, rendering.MujocoRenderer)
    fits = all(isinstance(part, kind) for part, kind in zip(found, wanted, strict=True))
    return found if fits else None


class Painter(Protocol):
    """Draws one environment at one size."""

    def draw(self) -> NDArray[np.uint8]:
        """A ``[size, size, 3]`` frame of the scene as it is now.

        Raises:
            RuntimeError: If it cannot be drawn, or nothing is to be seen.
        """

    def close(self) -> None:
        """Free what is used for drawing; the environment stays open."""


class EnvPainter:
    """The environment's own ``render()``; it must have been made for ``rgb_array``."""

    def __init__(self, env: AnyEnv, size: int) -> None:
        self._env, self._size = env, size

    def draw(self) -> NDArray[np.uint8]:
        """See :class:`Painter`."""
        try:
            frame: Any = self._env.render()
        except gymnasium.error.DependencyNotInstalled as error:
            raise RuntimeError(
                f"{self._env} cannot render: {error}. A policy that sees the state only needs "
                "no images: --env.image none"
            ) from error
        pixels = np.asarray(frame)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise RuntimeError(
                f"{self._env}.render() gave {pixels.dtype} of shape {list(pixels.shape)}; an image "
                "is uint8 of shape [h, w, 3]"
            )
        if pixels.min() == pixels.max():
            raise RuntimeError(
                f"{self._env}.render() gave a frame of one colour only; see `vla-rl doctor`, or "
                "choose another --env.image"
            )
        return gym_spaces.resized(pixels, self._size)

    def close(self) -> None:
        """See :class:`Painter`."""


class _Stage:
    """A scene of its own to draw, so that looking leaves no trace in the simulation.

    Environments of one kind share it, because meshes and textures would fill the memory.
    """

    def __init__(self, physics: Physics, size: int, quality: str) -> None:
        import mujoco

        model = physics.model
        self.data = mujoco.MjData(model)
        # The camera may look at the middle of the scene, which must not depend on the episode.
        mujoco.mj_forward(model, self.data)
        view = _camera(physics, self.data)
        cells = np.full(model.nmesh, _pixel(model, self.data, view, size) / 2)
        self.renderer = FrameRenderer(model, self.data, [view], size, quality, cells)
        self.users = 0


_stages: dict[Hashable, _Stage] = {}


class MujocoPainter:
    """The project's renderer, for Gymnasium's MuJoCo environments.

    Args:
        env: What is drawn.
        kind: Equal for environments that have the same model.
        size: Height and width of the frames in pixels.
        quality: ``"fast"`` or ``"full"``.
    """

    def __init__(self, env: AnyEnv, kind: Hashable, size: int, quality: str) -> None:
        import mujoco

        physics = physics_of(env)
        assert physics is not None, f"{env} is not one of Gymnasium's MuJoCo environments"
        self._env, self._physics = env, physics
        self._key, self._size, self._quality = (kind, size, quality), size, quality
        self._state_kind = int(mujoco.mjtState.mjSTATE_INTEGRATION.value)
        self._state = np.empty(mujoco.mj_stateSize(physics.model, self._state_kind))
        self._stage: _Stage | None = None

    def draw(self) -> NDArray[np.uint8]:
        """See :class:`Painter`."""
        if self._stage is None:
            if self._key not in _stages:
                _stages[self._key] = _Stage(self._physics, self._size, self._quality)
            self._stage = _stages[self._key]
            self._stage.users += 1
        self._copy_scene(self._stage.data)
        return cast("NDArray[np.uint8]", self._stage.renderer.render()[0])

    def close(self) -> None:
        """See :class:`Painter`."""
        if self._stage is None:
            return
        self._stage.users -= 1
        if not self._stage.users:
            self._stage.renderer.close()
            del _stages[self._key]
        self._stage = None

    def _copy_scene(self, scene: mujoco.MjData) -> None:
        import mujoco

        model, data, _ = self._physics
        mujoco.mj_getState(model, data, self._state, self._state_kind)
        mujoco.mj_setState(model, scene, self._state, self._state_kind)
        mujoco.mj_forward(model, scene)
        robots = sys.modules.get("gymnasium_robotics.envs.robot_env")
        inner = self._env.unwrapped
        if robots is not None and isinstance(inner, robots.BaseRobotEnv):
            # Its render() first puts a marker where the goal is, and computes everything anew.
            inner.data = scene
            try:
                inner._render_callback()
            finally:
                inner.data = data


def _camera(physics: Physics, data: mujoco.MjData) -> View | FreeView:
    """The camera that Gymnasium would render with."""
    model, _, renderer = physics
    if renderer.camera_id >= 0:
        return View(model.camera(renderer.camera_id).name)
    # As in gymnasium.envs.mujoco.mujoco_rendering, with MuJoCo's own default angles.
    config = {
        "lookat": np.median(data.geom_xpos, axis=0),
        "distance": model.stat.extent,
        "azimuth": 90.0,
        "elevation": -45.0,
        **(renderer.default_cam_config or {}),
    }
    x, y, z = (float(value) for value in config["lookat"])
    distance, azimuth, elevation = (
        float(config[name]) for name in ("distance", "azimuth", "elevation")
    )
    return FreeView((x, y, z), distance, azimuth, elevation)


def _pixel(model: mujoco.MjModel, data: mujoco.MjData, view: View | FreeView, size: int) -> float:
    """About how many metres of the scene one pixel shows."""
    if isinstance(view, View):
        camera = model.camera(view.camera).id
        distance = float(np.linalg.norm(data.cam_xpos[camera] - model.stat.center))
        fovy = float(model.cam_fovy[camera])
    else:
        distance, fovy = view.distance, float(model.vis.global_.fovy)
    return 2 * distance * math.tan(math.radians(fovy) / 2) / size
