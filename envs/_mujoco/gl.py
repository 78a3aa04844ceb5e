"""The GL library that draws, found by trying, and the one context of a process.

MuJoCo reads ``MUJOCO_GL`` when it is imported, so this module imports it only inside functions that
run after :func:`choose_gl`.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib.util
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from vla_rl.envs._mujoco.views import LARGEST_IMAGE
from vla_rl.types import Check

PACKAGES = {"egl": "libegl1 libgl1-mesa-dri", "osmesa": "libosmesa6", "glfw": "libglfw3"}
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
    if backend not in PACKAGES:
        raise RuntimeError(
            f"MUJOCO_GL={backend!r} cannot render; unset it or use one of {', '.join(PACKAGES)}"
        )
    probe = _probe(backend)
    if not probe.works:
        raise RuntimeError(
            f"MUJOCO_GL={backend} is set but does not work: {probe.detail}. Unset MUJOCO_GL to let "
            f"vla-rl choose, or install it: sudo apt-get install -y {PACKAGES[backend]}"
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
        f"  sudo apt-get install -y {PACKAGES['egl']}\n"
        f"  sudo apt-get install -y {PACKAGES['osmesa']}\n" + "\n".join(failures)
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


# One context serves every renderer of a process: each more would cost memory and switching.
_context: Any = None


class _Renderer(Protocol):
    """What is closed before its context is."""

    def close(self) -> None: ...


open_renderers: weakref.WeakSet[_Renderer] = weakref.WeakSet()


def make_current() -> None:
    """Draw into this process's context from now on; it is made on the first call."""
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
    for renderer in list(open_renderers):
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
    make_current()
    from OpenGL import GL

    names = {"vendor": GL.GL_VENDOR, "renderer": GL.GL_RENDERER, "version": GL.GL_VERSION}
    strings = {name: GL.glGetString(key).decode() for name, key in names.items()}
    return {"backend": choice.backend, "reason": choice.reason, **strings}


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
