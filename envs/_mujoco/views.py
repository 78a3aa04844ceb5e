"""Cameras: those of a model, free ones, and ones that follow a body."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from vla_rl.plugins import unknown

if TYPE_CHECKING:
    import mujoco


QUALITIES = ("fast", "full")
SMALLEST_IMAGE, LARGEST_IMAGE = 16, 1024


@dataclass(frozen=True)
class View:
    """A camera of the model, possibly moved.

    Attributes:
        camera: Name of the camera in the model.
        position: World position instead of the camera's own, in metres.
        fovy: Vertical field of view in degrees instead of the camera's own.
        upside_down: Whether the model's camera is mounted head down, so that the view must be
            turned by half a turn to be upright.
    """

    camera: str
    position: tuple[float, float, float] | None = None
    fovy: float | None = None
    upside_down: bool = False


@dataclass(frozen=True)
class FreeView:
    """A camera that stands anywhere in the world, in the terms of MuJoCo's free camera.

    Attributes:
        lookat: World position of what is in the middle of the frame, in metres.
        distance: How far the camera is from there, in metres.
        azimuth: Where the camera looks, in degrees from the world's x axis to its y axis.
        elevation: How far it looks up, in degrees; negative is down.
        fovy: Vertical field of view in degrees instead of the model's own for free cameras.
    """

    lookat: tuple[float, float, float]
    distance: float
    azimuth: float
    elevation: float
    fovy: float | None = None


@dataclass(frozen=True)
class BodyView:
    """A camera that rides on a body.

    Attributes:
        body: Name of the body.
        position: Position in the body's frame, in metres.
        forward: Direction in the body's frame that the camera looks in.
        up: Direction in the body's frame that is upwards in the frame; need not be square to
            ``forward``, but must not be parallel to it.
        fovy: Vertical field of view in degrees instead of the model's own for free cameras.
    """

    body: str
    position: tuple[float, float, float]
    forward: tuple[float, float, float]
    up: tuple[float, float, float]
    fovy: float | None = None


AnyView = View | FreeView | BodyView


def check_cameras(cameras: Sequence[str], suite: str, known: Iterable[str]) -> None:
    """Check the cameras that a suite is asked for.

    Raises:
        ValueError: If one is unknown or listed twice, or they are no sequence of names.
    """
    if isinstance(cameras, str):
        raise ValueError(f"cameras must be a tuple of names, got the string {cameras!r}")
    choices = list(known)
    for camera in cameras:
        if camera not in choices:
            raise ValueError(unknown(f"{suite} camera", camera, choices))
    if len(set(cameras)) < len(cameras):
        raise ValueError(f"a camera is listed twice in {cameras}")


def check_image(size: int, quality: str) -> None:
    """Check settings without touching GL.

    Raises:
        ValueError: If the size is not in 16..1024 or the quality is not "fast" or "full".
    """
    if isinstance(size, bool) or not isinstance(size, int):
        raise ValueError(f"image_size {size!r} must be a whole number of pixels")
    if not SMALLEST_IMAGE <= size <= LARGEST_IMAGE:
        raise ValueError(f"image_size {size} is outside {SMALLEST_IMAGE}..{LARGEST_IMAGE}")
    if quality not in QUALITIES:
        raise ValueError(f"unknown quality {quality!r}; allowed: {', '.join(QUALITIES)}")


class Eye(NamedTuple):
    """From where a view is seen.

    Attributes:
        position: ``[3]`` in the world, in metres.
        axes: ``[3, 3]``, its columns point to the right, up and back in the world.
        fovy: Vertical field of view in degrees.
    """

    position: NDArray[np.float64]
    axes: NDArray[np.float64]
    fovy: float


def eye_of(model: mujoco.MjModel, data: mujoco.MjData, view: AnyView) -> Eye:
    if isinstance(view, View):
        camera = model.camera(view.camera).id
        position = data.cam_xpos[camera] if view.position is None else np.array(view.position)
        axes = data.cam_xmat[camera].reshape(3, 3)
        return Eye(position, axes, view.fovy or float(model.cam_fovy[camera]))
    fovy = view.fovy or float(model.vis.global_.fovy)
    if isinstance(view, BodyView):
        body = model.body(view.body).id
        turn = data.xmat[body].reshape(3, 3)
        position = data.xpos[body] + turn @ view.position
        return Eye(position, _axes(turn @ view.forward, turn @ view.up), fovy)
    azimuth, elevation = math.radians(view.azimuth), math.radians(view.elevation)
    level = math.cos(elevation)
    forward = np.array([level * math.cos(azimuth), level * math.sin(azimuth), math.sin(elevation)])
    # Looking straight up or down, what was ahead of the camera is up in the frame.
    upwards = -forward[2] * np.array([math.cos(azimuth), math.sin(azimuth), 0.0])
    upwards[2] = level
    return Eye(view.lookat - view.distance * forward, _axes(forward, upwards), fovy)


def _axes(forward: NDArray[np.float64], up: NDArray[np.float64]) -> NDArray[np.float64]:
    back = -forward / np.linalg.norm(forward)
    right = np.cross(up, back)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(back, right), back], axis=1)


def in_sight(model: mujoco.MjModel, data: mujoco.MjData, eye: Eye) -> NDArray[np.bool_]:
    """Which geoms' bounding spheres reach into the square cone that a view shows."""
    across = math.tan(math.radians(eye.fovy) / 2)
    right, up, back = ((data.geom_xpos - eye.position) @ eye.axes).T
    edge = model.geom_rbound * math.hypot(1.0, across) - back * across
    # Planes are unbounded, which MuJoCo writes as a radius of 0.
    seen = (np.maximum(np.abs(right), np.abs(up)) <= edge) | (model.geom_rbound == 0)
    return cast("NDArray[np.bool_]", seen)


def mjv_camera(model: mujoco.MjModel, view: AnyView) -> mujoco.MjvCamera:
    import mujoco

    camera = mujoco.MjvCamera()
    if isinstance(view, View):
        camera.type = mujoco.mjtCamera.mjCAMERA_FIXED.value
        camera.fixedcamid = model.camera(view.camera).id
    return camera


def move_camera(scene: mujoco.MjvScene, view: AnyView, eye: Eye) -> None:
    """Apply what the view changes about MuJoCo's camera, in the scene only."""
    moved = not isinstance(view, View) or view.position is not None
    for camera in scene.camera:
        if moved:
            camera.pos = eye.position
        if not isinstance(view, View):
            camera.forward, camera.up = -eye.axes[:, 2], eye.axes[:, 1]
        elif view.upside_down:
            camera.up = -camera.up
        if view.fovy is not None:
            camera.frustum_top = camera.frustum_near * math.tan(math.radians(view.fovy) / 2)
            camera.frustum_bottom = -camera.frustum_top
    if moved and scene.nlight and scene.lights[0].headlight:
        scene.lights[0].pos = eye.position
        if not isinstance(view, View):
            scene.lights[0].dir = -eye.axes[:, 2]
