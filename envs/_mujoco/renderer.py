"""Offscreen MuJoCo rendering: choosing a GL library, and small frames fast.

A policy looks at frames of about 64 pixels, where detail of the meshes, shadows and antialiasing
cannot be seen but costs nearly all the time of a software renderer. ``quality="fast"`` leaves them
out; the simulated model is never changed.

MuJoCo reads ``MUJOCO_GL`` when it is imported, so this module imports it only inside functions that
run after :func:`choose_gl`.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import ctypes
import importlib.util
import json
import math
import os
import subprocess
import sys
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from vla_rl.plugins import unknown
from vla_rl.types import Check

if TYPE_CHECKING:
    import mujoco

QUALITIES = ("fast", "full")
SMALLEST_IMAGE, LARGEST_IMAGE = 16, 1024

# ----------------------------------------------------------------------------- choosing a backend

_PACKAGES = {"egl": "libegl1 libgl1-mesa-dri", "osmesa": "libosmesa6", "glfw": "libglfw3"}
_CHOICE_VARIABLE = "VLA_RL_GL"
_PROBE_SECONDS = 120

# Runs in a process of its own, because a broken driver may abort instead of raising.
_PROBE = """
import json, mujoco
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 3'/><geom size='.3'/></worldbody></mujoco>"
)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    brightest = int(renderer.render().max())
    from OpenGL import GL
    name = GL.glGetString(GL.GL_RENDERER).decode()
print(json.dumps({"brightest": brightest, "renderer": name}))
"""


class GLChoice(NamedTuple):
    """The GL backend of this process and its children.

    Attributes:
        backend: ``"egl"``, ``"osmesa"`` or ``"glfw"``.
        reason: One sentence on why it was chosen.
    """

    backend: str
    reason: str


class _Probe(NamedTuple):
    works: bool
    detail: str


def choose_gl() -> GLChoice:
    """Find a GL library that really renders and make MuJoCo use it.

    EGL is tried first and then OSMesa, each in a short process of its own, which must draw a frame
    that is not black. The answer is put into ``MUJOCO_GL`` and inherited by child processes, which
    do not try again. A ``MUJOCO_GL`` set by the user is tested and kept.

    Raises:
        RuntimeError: If no library works, or the one that the user asked for does not; the message
            names the package to install.
    """
    asked = os.environ.get("MUJOCO_GL", "").strip().lower()
    backend, _, reason = os.environ.get(_CHOICE_VARIABLE, "").partition("|")
    if backend and backend == asked:
        return GLChoice(backend, reason)
    found, detail = _asked_for(asked) if asked else _first_that_works()
    note = _use(found.backend, software="llvmpipe" in detail or "softpipe" in detail)
    os.environ[_CHOICE_VARIABLE] = "|".join(found)
    return GLChoice(found.backend, found.reason + note)


def _asked_for(backend: str) -> tuple[GLChoice, str]:
    if backend not in _PACKAGES:
        raise RuntimeError(
            f"MUJOCO_GL={backend!r} cannot render; unset it or use one of {', '.join(_PACKAGES)}"
        )
    probe = _probe(backend)
    if not probe.works:
        raise RuntimeError(
            f"MUJOCO_GL={backend} is set but does not work: {probe.detail}. Unset MUJOCO_GL to let "
            f"vla-rl choose, or install it: sudo apt-get install -y {_PACKAGES[backend]}"
        )
    return GLChoice(backend, f"MUJOCO_GL={backend} was set; {probe.detail}"), probe.detail


def _first_that_works() -> tuple[GLChoice, str]:
    failures: list[str] = []
    for backend, name in (("egl", "EGL"), ("osmesa", "OSMesa")):
        probe = _probe(backend)
        if probe.works:
            because = "".join(f"{failure}; using {name}; " for failure in failures)
            return GLChoice(backend, because + f"{name} works: {probe.detail}"), probe.detail
        failures.append(f"{name} failed: {probe.detail}")
    raise RuntimeError(
        "MuJoCo cannot render, because no GL library works. Install one of them:\n"
        f"  sudo apt-get install -y {_PACKAGES['egl']}\n"
        f"  sudo apt-get install -y {_PACKAGES['osmesa']}\n" + "\n".join(failures)
    )


def _probe(backend: str) -> _Probe:
    environment = {**os.environ, "MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
    if backend == "glfw":
        environment.pop("PYOPENGL_PLATFORM")
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return _Probe(False, str(error))
    if done.returncode != 0:
        return _Probe(False, _cause(done.stderr) or f"exit status {done.returncode}")
    answer = json.loads(done.stdout.splitlines()[-1])
    if answer["brightest"] < 8:
        return _Probe(False, f"{answer['renderer']} draws black frames")
    return _Probe(True, answer["renderer"])


def _cause(stderr: str) -> str:
    """The error that started it: clean-up code may raise more errors after it."""
    lines = [line.strip() for line in stderr.splitlines()]
    errors = [
        line for line in lines if "Error" in line.split(":")[0] and " " not in line.split(":")[0]
    ]
    return (errors or lines or [""])[0]


def _use(backend: str, software: bool) -> str:
    """Set the environment; returns a remark if MuJoCo was imported before with another one."""
    os.environ["MUJOCO_GL"] = backend
    if backend == "glfw":
        os.environ.pop("PYOPENGL_PLATFORM", None)
    else:
        os.environ["PYOPENGL_PLATFORM"] = backend
    if software:
        # The calling thread draws small frames in less time than a pool takes to wake up.
        os.environ.setdefault("LP_NUM_THREADS", "0")
    earlier = sys.modules.get("mujoco.gl_context")
    used = getattr(getattr(earlier, "GLContext", None), "__module__", f"mujoco.{backend}")
    if used == f"mujoco.{backend}":
        return ""
    return f"; mujoco was imported before for {used.removeprefix('mujoco.')}, which is not used"


# -------------------------------------------------------------------------------- the GL context

# One context serves every renderer of a process: each more would cost memory and switching.
_context: Any = None
_renderers: weakref.WeakSet[FrameRenderer] = weakref.WeakSet()


def _make_current() -> None:
    global _context
    if _context is None:
        backend = choose_gl().backend
        load_triton_first()
        if backend == "egl":
            from mujoco.egl import GLContext
        elif backend == "osmesa":
            from mujoco.osmesa import GLContext
        else:
            from mujoco.glfw import GLContext
        _context = GLContext(LARGEST_IMAGE, LARGEST_IMAGE)
        # Registered after the driver's own exit handler, hence run before it.
        atexit.register(_close_all)
    _context.make_current()


def load_triton_first() -> None:
    """Keep PyTorch's compiler from crashing the process later.

    Triton and Mesa's software rasteriser each bring an LLVM. Mesa's is loaded with global symbols,
    so a Triton loaded after it, which the first optimiser does, binds to the wrong one. Loading the
    library alone imports neither Triton nor PyTorch.
    """
    package = importlib.util.find_spec("triton")
    for folder in (package.submodule_search_locations or ()) if package else ():
        for library in Path(folder, "_C").glob("libtriton*.so"):
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(library))


def _close_all() -> None:
    global _context
    for renderer in list(_renderers):
        renderer.close()
    if _context is not None:
        _context.free()
        _context = None


def gl_info() -> dict[str, str]:
    """What draws: ``backend``, ``reason``, ``vendor``, ``renderer`` and ``version``.

    Raises:
        RuntimeError: If no GL library works.
    """
    choice = choose_gl()
    _make_current()
    from OpenGL import GL

    names = {"vendor": GL.GL_VENDOR, "renderer": GL.GL_RENDERER, "version": GL.GL_VERSION}
    strings = {name: GL.glGetString(key).decode() for name, key in names.items()}
    return {"backend": choice.backend, "reason": choice.reason, **strings}


# ------------------------------------------------------------------------------------- rendering


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


class FrameRenderer:
    """Draws the same views of one simulation again and again.

    Use it from one thread. Places follow ``data`` as it is at the call, so they must have been
    computed (``mj_forward``) after the last change of the state; colours and sizes are those that
    the model had when the renderer was made.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        views: Sequence[AnyView],
        size: int,
        quality: str,
        cells: NDArray[np.float64] | None = None,
    ) -> None:
        """Prepare to draw.

        Args:
            model: The simulated model; it is not changed.
            data: Its state.
            views: What to draw, in order; at least one.
            size: Height and width in pixels, 16 to 1024.
            quality: ``"fast"`` or ``"full"``.
            cells: Edge length in metres, for each mesh of the model, of the cells that its vertices
                are merged in when the quality is "fast"; 0 keeps a mesh as it is.

        Raises:
            ValueError: If there is no view, or the size or the quality is not allowed.
            RuntimeError: If no GL library works.
        """
        check_image(size, quality)
        if not views:
            raise ValueError("a renderer needs at least one view")
        _make_current()
        import mujoco

        self._mujoco = mujoco
        self._data, self._size, self._fast = data, size, quality == "fast"
        self._model = copy.copy(model)
        self._model.vis.global_.offwidth = self._model.vis.global_.offheight = size
        if self._fast:
            _simplify(self._model, size, cells)
        self._gl = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        self._scene = mujoco.MjvScene(self._model, maxgeom=model.ngeom + model.nsite + 64)
        if self._fast:
            self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._options = mujoco.MjvOption()
        self._groups = model.geom_group.copy()
        self._views = [(view, _camera(model, view)) for view in views]
        self._rect = mujoco.MjrRect(0, 0, size, size)
        _renderers.add(self)

    def render(self) -> NDArray[np.uint8]:
        """Draw every view.

        Returns:
            ``[V, size, size, 3]`` upright RGB.

        Raises:
            RuntimeError: If the renderer is closed or the frames come out empty.
        """
        if self._gl is None:
            raise RuntimeError("the renderer is closed")
        _make_current()
        # Renderers share one GL context: without this, the frame would land in another's buffer.
        offscreen = self._mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value
        self._mujoco.mjr_setBuffer(offscreen, self._gl)
        frames = np.empty((len(self._views), self._size, self._size, 3), np.uint8)
        for frame, (view, camera) in zip(frames, self._views, strict=True):
            self._draw(view, camera)
            self._mujoco.mjr_readPixels(frame, None, self._rect, self._gl)
        if frames.max() < 4 or frames.min() == frames.max():
            raise RuntimeError(
                f"the frames of {[view for view, _ in self._views]} are empty although "
                f"{os.environ.get('MUJOCO_GL')} works elsewhere: try MUJOCO_GL=osmesa "
                f"(sudo apt-get install -y {_PACKAGES['osmesa']}) or a smaller image_size"
            )
        # OpenGL's first row is the lowest one.
        return np.ascontiguousarray(frames[:, ::-1])

    def close(self) -> None:
        """Free the GL resources; closing twice does nothing."""
        if self._gl is not None:
            _make_current()
            self._gl.free()
            self._gl = None
            _renderers.discard(self)

    def _draw(self, view: AnyView, camera: mujoco.MjvCamera) -> None:
        mujoco, everything = self._mujoco, self._mujoco.mjtCatBit.mjCAT_ALL.value
        eye = _eye(self._model, self._data, view)
        if self._fast:
            # Without shadows, what is out of sight leaves no trace in the frame.
            seen = _in_sight(self._model, self._data, eye)
            self._model.geom_group[:] = np.where(seen, self._groups, _HIDDEN_GROUP)
        mujoco.mjv_updateScene(
            self._model, self._data, self._options, None, camera, everything, self._scene
        )
        _move(self._scene, view, eye)
        mujoco.mjr_render(self._rect, self._scene, self._gl)


_HIDDEN_GROUP = 5
"""A geom group that MuJoCo does not draw unless told to."""


class _Eye(NamedTuple):
    """From where a view is seen.

    Attributes:
        position: ``[3]`` in the world, in metres.
        axes: ``[3, 3]``, its columns point to the right, up and back in the world.
        fovy: Vertical field of view in degrees.
    """

    position: NDArray[np.float64]
    axes: NDArray[np.float64]
    fovy: float


def _eye(model: mujoco.MjModel, data: mujoco.MjData, view: AnyView) -> _Eye:
    if isinstance(view, View):
        camera = model.camera(view.camera).id
        position = data.cam_xpos[camera] if view.position is None else np.array(view.position)
        axes = data.cam_xmat[camera].reshape(3, 3)
        return _Eye(position, axes, view.fovy or float(model.cam_fovy[camera]))
    fovy = view.fovy or float(model.vis.global_.fovy)
    if isinstance(view, BodyView):
        body = model.body(view.body).id
        turn = data.xmat[body].reshape(3, 3)
        position = data.xpos[body] + turn @ view.position
        return _Eye(position, _axes(turn @ view.forward, turn @ view.up), fovy)
    azimuth, elevation = math.radians(view.azimuth), math.radians(view.elevation)
    level = math.cos(elevation)
    forward = np.array([level * math.cos(azimuth), level * math.sin(azimuth), math.sin(elevation)])
    # Looking straight up or down, what was ahead of the camera is up in the frame.
    upwards = -forward[2] * np.array([math.cos(azimuth), math.sin(azimuth), 0.0])
    upwards[2] = level
    return _Eye(view.lookat - view.distance * forward, _axes(forward, upwards), fovy)


def _axes(forward: NDArray[np.float64], up: NDArray[np.float64]) -> NDArray[np.float64]:
    back = -forward / np.linalg.norm(forward)
    right = np.cross(up, back)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(back, right), back], axis=1)


def _in_sight(model: mujoco.MjModel, data: mujoco.MjData, eye: _Eye) -> NDArray[np.bool_]:
    """Which geoms' bounding spheres reach into the square cone that a view shows."""
    across = math.tan(math.radians(eye.fovy) / 2)
    right, up, back = ((data.geom_xpos - eye.position) @ eye.axes).T
    edge = model.geom_rbound * math.hypot(1.0, across) - back * across
    # Planes are unbounded, which MuJoCo writes as a radius of 0.
    seen = (np.maximum(np.abs(right), np.abs(up)) <= edge) | (model.geom_rbound == 0)
    return cast("NDArray[np.bool_]", seen)


def _simplify(model: mujoco.MjModel, size: int, cells: NDArray[np.float64] | None) -> None:
    """Drop detail that frames of a size do not show from a model that is only drawn."""
    quality = model.vis.quality
    quality.offsamples = quality.shadowsize = 0
    # MuJoCo draws round shapes with 28 x 16 faces and boxes with 4 x 4 per side.
    detail = min(1.0, size / 256)
    quality.numslices = max(10, round(28 * detail))
    quality.numstacks = max(6, round(16 * detail))
    quality.numquads = max(2, round(4 * detail))
    if cells is not None:
        merge_vertices(model, cells)


def _camera(model: mujoco.MjModel, view: AnyView) -> mujoco.MjvCamera:
    import mujoco

    camera = mujoco.MjvCamera()
    if isinstance(view, View):
        camera.type = mujoco.mjtCamera.mjCAMERA_FIXED.value
        camera.fixedcamid = model.camera(view.camera).id
    return camera


def _move(scene: mujoco.MjvScene, view: AnyView, eye: _Eye) -> None:
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


_CELL_IMAGE_SIZE = 64
"""The image size that the edge lengths below :func:`mesh_cells` are meant for."""


def mesh_cells(
    model: mujoco.MjModel, robot: str, image_size: int, robot_cell: float, object_cell: float
) -> NDArray[np.float64]:
    """How coarsely each mesh may be drawn, finer for larger images.

    Args:
        model: The simulated model.
        robot: Name of any body of the robot.
        image_size: Height and width of the frames in pixels.
        robot_cell: Edge length in metres for the robot's meshes, at 64 pixels.
        object_cell: Edge length in metres for all other meshes, at 64 pixels; 0 keeps them.

    Returns:
        ``[nmesh]`` edge lengths in metres, for :class:`FrameRenderer`.
    """
    cells = np.full(model.nmesh, object_cell, np.float64)
    root = model.body_rootid[model.body(robot).id]
    of_robot = (model.geom_dataid >= 0) & (model.body_rootid[model.geom_bodyid] == root)
    cells[model.geom_dataid[of_robot]] = robot_cell
    return cells * min(1.0, _CELL_IMAGE_SIZE / image_size)


def merge_vertices(model: mujoco.MjModel, cells: NDArray[np.float64]) -> None:
    """Simplify the meshes of a model in place, for drawing only.

    Vertices of a mesh that share a cubic cell move to their mean, and triangles that collapse are
    dropped. Corners keep their normals, so that shading stays smooth.

    Args:
        model: A copy that is not simulated.
        cells: ``[nmesh]`` edge lengths in metres; 0 keeps a mesh.
    """
    for mesh in np.flatnonzero(cells > 0):
        first, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
        corner, faces = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
        vertices = model.mesh_vert[first : first + count]
        keys = np.floor(vertices / cells[mesh]).astype(np.int64)
        _, group = np.unique(keys, axis=0, return_inverse=True)
        group = group.reshape(-1)
        size = np.bincount(group)
        means = np.stack([np.bincount(group, vertices[:, axis]) / size for axis in range(3)], 1)
        vertices[:] = means[group]
        a, b, c = group[model.mesh_face[corner : corner + faces]].T
        kept = np.flatnonzero((a != b) & (b != c) & (a != c))
        for table in (model.mesh_face, model.mesh_facenormal, model.mesh_facetexcoord):
            table[corner : corner + len(kept)] = table[corner + kept]
        model.mesh_facenum[mesh] = len(kept)


# ------------------------------------------------------------------------------------ diagnosis

# In a process of its own: the caller may go on to use torch, which must not be imported after GL.
_REAL_FRAME = """
import sys, time
from vla_rl import plugins
suite = plugins.load("envs", sys.argv[1])
env = suite.make(suite.tasks()[0], suite.Settings())
env.start(0)
env.observe()
began = time.perf_counter()
images = [env.observe().images for _ in range(20)][-1]
spent = (time.perf_counter() - began) / 20
print(f"{images.shape[0]} views of {images.shape[1]} px in {1e3 * spent:.1f} ms, "
      f"mean brightness {images.mean():.0f} of 255")
"""


def check_frames(suite: str) -> list[Check]:
    """Whether a GL library works, and whether a real frame of a suite's first task shows something.

    Args:
        suite: Plug-in name of the suite; its default settings must have cameras.
    """
    try:
        found = ": ".join(choose_gl())
    except RuntimeError as error:
        return [Check("GL library", False, "none works", str(error))]
    done = subprocess.run(
        [sys.executable, "-c", _REAL_FRAME, suite], capture_output=True, text=True, check=False
    )
    frame = done.stdout.strip() or done.stderr.strip().rpartition("\n")[2]
    advice = "" if done.returncode == 0 else "the GL library draws, but not this scene: see above"
    return [Check("GL library", True, found), Check("frame", not advice, frame, advice)]
