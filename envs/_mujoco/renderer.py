"""Offscreen MuJoCo rendering: small frames fast.

A policy looks at frames of about 64 pixels, where detail of the meshes, shadows and antialiasing
cannot be seen but costs nearly all the time of a software renderer. ``quality="fast"`` leaves them
out; the simulated model is never changed.

MuJoCo reads ``MUJOCO_GL`` when it is imported, so this module imports it only inside functions that
run after :func:`choose_gl`.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vla_rl.envs._mujoco.gl import PACKAGES, make_current, open_renderers
from vla_rl.envs._mujoco.views import (
    AnyView,
    check_image,
    eye_of,
    in_sight,
    mjv_camera,
    move_camera,
)

if TYPE_CHECKING:
    import mujoco


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
        make_current()
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
        self._views = [(view, mjv_camera(model, view)) for view in views]
        self._rect = mujoco.MjrRect(0, 0, size, size)
        open_renderers.add(self)

    def render(self) -> NDArray[np.uint8]:
        """Draw every view.

        Returns:
            ``[V, size, size, 3]`` upright RGB.

        Raises:
            RuntimeError: If the renderer is closed or the frames come out empty.
        """
        if self._gl is None:
            raise RuntimeError("the renderer is closed")
        make_current()
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
                f"(sudo apt-get install -y {PACKAGES['osmesa']}) or a smaller image_size"
            )
        # OpenGL's first row is the lowest one.
        return np.ascontiguousarray(frames[:, ::-1])

    def close(self) -> None:
        """Free the GL resources; closing twice does nothing."""
        if self._gl is not None:
            make_current()
            self._gl.free()
            self._gl = None
            open_renderers.discard(self)

    def _draw(self, view: AnyView, camera: mujoco.MjvCamera) -> None:
        mujoco, everything = self._mujoco, self._mujoco.mjtCatBit.mjCAT_ALL.value
        eye = eye_of(self._model, self._data, view)
        if self._fast:
            # Without shadows, what is out of sight leaves no trace in the frame.
            seen = in_sight(self._model, self._data, eye)
            self._model.geom_group[:] = np.where(seen, self._groups, _HIDDEN_GROUP)
        mujoco.mjv_updateScene(
            self._model, self._data, self._options, None, camera, everything, self._scene
        )
        move_camera(self._scene, view, eye)
        mujoco.mjr_render(self._rect, self._scene, self._gl)


_HIDDEN_GROUP = 5
"""A geom group that MuJoCo does not draw unless told to."""


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
