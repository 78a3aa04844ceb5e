"""Choosing a GL library, and what the renderer promises."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from vla_rl.envs._mujoco import gl
from vla_rl.envs._mujoco import renderer as renderer_module
from vla_rl.envs._mujoco.gl import _Probe, check_frames, choose_gl, gl_info
from vla_rl.envs._mujoco.renderer import FrameRenderer, merge_vertices, mesh_cells
from vla_rl.envs._mujoco.views import BodyView, FreeView, View

pytestmark = pytest.mark.sim

SCENE = """
<mujoco>
  <worldbody>
    <light pos="0 -1 3"/>
    <camera name="front" pos="0 -2 0" xyaxes="1 0 0 0 0 1"/>
    <camera name="away" pos="0 -2 0" xyaxes="-1 0 0 0 0 1"/>
    <geom type="plane" size="5 5 .1" pos="0 0 -.5" rgba=".4 .4 .6 1"/>
    <geom type="sphere" size=".2" pos="0 9 0"/>
    <body name="box" pos="0 0 0">
      <freejoint/>
      <geom type="box" size=".1 .1 .1" rgba="1 0 0 1"/>
    </body>
  </worldbody>
</mujoco>
"""


def run(code, **environment):
    removed = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "VLA_RL_GL", "LP_NUM_THREADS")
    inherited = {k: v for k, v in os.environ.items() if k not in removed}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


# ------------------------------------------------------------------------------- the GL library


@pytest.fixture
def fresh(monkeypatch):
    """As if nothing had been chosen yet; returns a way to say which backends work."""
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "VLA_RL_GL", "LP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    probed = []

    def works(**answers):
        def probe(backend):
            probed.append(backend)
            return _Probe(*answers.get(backend, (False, f"no {backend} here")))

        monkeypatch.setattr(gl, "_probe", probe)
        return probed

    return works


def test_egl_is_preferred_and_the_answer_is_inherited(fresh):
    probed = fresh(egl=(True, "llvmpipe (LLVM)"), osmesa=(True, "llvmpipe"))
    choice = choose_gl()
    assert choice.backend == "egl"
    assert os.environ["MUJOCO_GL"] == os.environ["PYOPENGL_PLATFORM"] == "egl"
    assert os.environ["LP_NUM_THREADS"] == "0"
    assert choose_gl().backend == "egl"
    assert probed == ["egl"], "the second call must not try again"


def test_a_gpu_keeps_its_threads(fresh):
    fresh(egl=(True, "NVIDIA H200/PCIe/SSE2"))
    choose_gl()
    assert "LP_NUM_THREADS" not in os.environ


def test_osmesa_is_the_fallback_and_the_reason_says_why(fresh):
    fresh(osmesa=(True, "llvmpipe"))
    assert choose_gl().reason.startswith("EGL failed: no egl here; using OSMesa")
    assert os.environ["MUJOCO_GL"] == "osmesa"


def test_without_any_library_the_error_says_what_to_install(fresh):
    fresh()
    with pytest.raises(RuntimeError) as caught:
        choose_gl()
    assert "sudo apt-get install -y libegl1 libgl1-mesa-dri" in str(caught.value)
    assert "sudo apt-get install -y libosmesa6" in str(caught.value)
    assert "no egl here" in str(caught.value)
    assert "MUJOCO_GL" not in os.environ


def test_the_users_choice_is_kept_but_tested(fresh, monkeypatch):
    probed = fresh(osmesa=(True, "llvmpipe"))
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert choose_gl().backend == "osmesa"
    assert probed == ["osmesa"]
    monkeypatch.setenv("MUJOCO_GL", "egl")
    with pytest.raises(RuntimeError, match=r"MUJOCO_GL=egl is set.*no egl here.*Unset.*libegl1"):
        choose_gl()
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    with pytest.raises(RuntimeError, match=r"'disabled' cannot render.*egl, osmesa"):
        choose_gl()


def test_a_library_that_is_missing_is_found_out_without_harm():
    done = run(
        "from vla_rl.envs._mujoco import gl; print(gl._probe('egl'))",
        PYTHONPATH="",
        __EGL_VENDOR_LIBRARY_FILENAMES="/nowhere.json",
    )
    assert "_Probe(works=False" in done.stdout, done.stderr


def test_mujoco_may_have_been_imported_before():
    done = run(
        "import mujoco\n"
        "from vla_rl.envs._mujoco import gl\n"
        "print(gl.choose_gl().reason); print(gl.gl_info()['renderer'])"
    )
    assert done.returncode == 0, done.stderr
    assert "imported before for glfw, which is not used" in done.stdout


def test_gl_info_names_the_renderer():
    info = gl_info()
    assert set(info) == {"backend", "reason", "vendor", "renderer", "version"}
    assert all(info.values())


@pytest.mark.skipif(find_spec("triton") is None, reason="PyTorch without Triton cannot crash")
def test_rendering_before_loading_triton_does_not_crash():
    done = run("from vla_rl.envs._mujoco import gl; gl.gl_info(); import triton._C.libtriton")
    assert done.returncode == 0, done.stderr


# --------------------------------------------------------------------------------------- frames


@pytest.fixture(scope="module")
def scene():
    choose_gl()
    import mujoco

    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def redness(image):
    return int(((image[..., 0] > 90) & (image[..., 1] < 80)).sum())


@pytest.mark.parametrize("quality", ["fast", "full"])
def test_frames_follow_the_state_and_leave_the_model_alone(scene, quality):
    import mujoco

    model, data = scene
    before = {n: getattr(model, n) for n in dir(model) if not n.startswith("_")}
    before = {n: a.copy() for n, a in before.items() if isinstance(a, np.ndarray)}
    offscreen = (model.vis.global_.offwidth, model.vis.quality.offsamples)
    renderer = FrameRenderer(model, data, [View("front"), View("away")], 32, quality)
    front, away = renderer.render()
    assert redness(front) > 0
    assert redness(away) == 0
    data.qpos[1] = 50.0
    mujoco.mj_forward(model, data)
    assert redness(renderer.render()[0]) == 0
    data.qpos[1] = 0.0
    mujoco.mj_forward(model, data)
    np.testing.assert_array_equal(renderer.render()[0], front)
    for name, array in before.items():
        np.testing.assert_array_equal(getattr(model, name), array)
    assert (model.vis.global_.offwidth, model.vis.quality.offsamples) == offscreen
    renderer.close()


def test_skipping_what_is_out_of_sight_changes_no_pixel(scene, monkeypatch):
    views = [View("front", fovy=20.0), View("away"), View("front", position=(0.4, -1.0, 0.3))]
    renderer = FrameRenderer(*scene, views, 48, "fast")
    frames = renderer.render()
    monkeypatch.setattr(renderer_module, "in_sight", lambda model, *_: np.ones(model.ngeom, bool))
    np.testing.assert_array_equal(renderer.render(), frames)
    renderer.close()


def test_views_can_be_moved_narrowed_and_turned(scene):
    near = View("front", position=(0.0, -1.0, 0.0))
    views = [View("front"), near, View("front", fovy=20.0), View("front", upside_down=True)]
    renderer = FrameRenderer(*scene, views, 64, "fast")
    plain, moved, narrow, turned = renderer.render()
    assert redness(moved) > 2 * redness(plain)
    assert redness(narrow) > 2 * redness(plain)
    # The rasteriser breaks ties on pixel edges the other way round.
    different = (np.abs(turned[::-1, ::-1].astype(int) - plain) > 8).any(axis=-1)
    assert different.mean() < 0.05
    renderer.close()


@pytest.mark.parametrize(("azimuth", "elevation"), [(90, 0), (60, -35), (-20, -89.9), (200, 15)])
def test_free_views_are_those_of_mujoco(scene, azimuth, elevation):
    import mujoco

    model, data = scene
    lookat, distance = (0.1, -0.1, 0.05), 1.5
    ours = FrameRenderer(*scene, [FreeView(lookat, distance, azimuth, elevation)], 64, "full")
    frame = ours.render()[0].astype(int)
    camera = mujoco.MjvCamera()
    camera.lookat[:], camera.distance = lookat, distance
    camera.azimuth, camera.elevation = azimuth, elevation
    with mujoco.Renderer(model, 64, 64) as theirs:
        theirs.update_scene(data, camera)
        expected = theirs.render()
    assert redness(expected) > 20
    # Sums in another order move an edge by less than a pixel here and there.
    assert (np.abs(frame - expected) > 8).any(axis=-1).mean() < 0.02
    ours.close()


def test_what_is_out_of_sight_of_free_and_body_views_changes_no_pixel(scene, monkeypatch):
    ahead = BodyView("box", (0.0, -1.0, 0.2), forward=(0.2, 1.0, -0.2), up=(0.1, 0.0, 1.0))
    views = [FreeView((0, 0, 0), 1.0, 30, -20, fovy=25.0), FreeView((0, 9, 0), 3.0, 90, 0), ahead]
    renderer = FrameRenderer(*scene, views, 48, "fast")
    frames = renderer.render()
    assert len({frame.tobytes() for frame in frames}) == 3
    monkeypatch.setattr(renderer_module, "in_sight", lambda model, *_: np.ones(model.ngeom, bool))
    np.testing.assert_array_equal(renderer.render(), frames)
    renderer.close()


def test_a_narrow_free_view_shows_less(scene):
    wide, narrow = FreeView((0, 0, 0), 2.0, 90, 0), FreeView((0, 0, 0), 2.0, 90, 0, fovy=20.0)
    renderer = FrameRenderer(*scene, [wide, narrow], 64, "fast")
    seen = [redness(frame) for frame in renderer.render()]
    assert seen[1] > 2 * seen[0] > 0
    renderer.close()


def test_a_body_view_equals_a_camera_of_the_model_on_that_body():
    choose_gl()
    import mujoco

    mounted = "<camera name='eye' pos='.3 -1 .2' xyaxes='.8 .6 0 0 0 1' fovy='50'/>"
    model = mujoco.MjModel.from_xml_string(SCENE.replace("<freejoint/>", mounted + "<freejoint/>"))
    data = mujoco.MjData(model)
    view = BodyView("box", (0.3, -1.0, 0.2), forward=(-0.6, 0.8, 0.0), up=(0, 0, 1), fovy=50.0)
    renderer = FrameRenderer(model, data, [View("eye"), view], 64, "fast")
    frames = []
    for turn in ((1.0, 0.0, 0.0, 0.0), (0.9, 0.1, 0.2, 0.4)):
        data.qpos[:] = (0.2, 0.1, 0.3, *turn)
        mujoco.mj_forward(model, data)
        frames.append(renderer.render().astype(int))
        expected, found = frames[-1]
        assert redness(expected) > 20
        assert (np.abs(found - expected) > 8).any(axis=-1).mean() < 0.02
    assert (frames[0][0] != frames[1][0]).any()
    renderer.close()


def test_renderers_that_take_turns_do_not_mix_their_frames(scene):
    one = FrameRenderer(*scene, [View("front")], 32, "fast")
    alone = one.render()
    other = FrameRenderer(*scene, [View("away"), View("away")], 48, "full")
    frames = other.render()
    for _ in range(2):
        np.testing.assert_array_equal(one.render(), alone)
        np.testing.assert_array_equal(other.render(), frames)
    one.close()
    other.close()


def test_an_empty_frame_is_an_error(scene):
    renderer = FrameRenderer(*scene, [View("front", position=(0, 0, -40.0), fovy=1.0)], 32, "fast")
    with pytest.raises(RuntimeError, match=r"empty.*MUJOCO_GL=osmesa"):
        renderer.render()
    renderer.close()


def test_a_closed_renderer_says_so(scene):
    renderer = FrameRenderer(*scene, [View("front")], 32, "fast")
    renderer.close()
    renderer.close()
    with pytest.raises(RuntimeError, match="closed"):
        renderer.render()


def test_bad_arguments_are_refused(scene):
    with pytest.raises(ValueError, match="at least one view"):
        FrameRenderer(*scene, [], 32, "fast")
    with pytest.raises(ValueError, match="8 is outside 16..1024"):
        FrameRenderer(*scene, [View("front")], 8, "fast")


def test_the_interpreter_exits_without_noise():
    done = run(
        "from vla_rl.envs._mujoco import gl; gl.choose_gl(); import mujoco\n"
        f"model = mujoco.MjModel.from_xml_string('''{SCENE}''')\n"
        "data = mujoco.MjData(model); mujoco.mj_forward(model, data)\n"
        "from vla_rl.envs._mujoco.renderer import FrameRenderer\n"
        "from vla_rl.envs._mujoco.views import View\n"
        "view = [View('front')]\n"
        "kept = [FrameRenderer(model, data, view, 32, 'fast') for _ in range(3)]\n"
        "[renderer.render() for renderer in kept]\n"
    )
    assert done.returncode == 0
    assert done.stderr == ""


def test_merging_vertices_keeps_the_shape_and_drops_faces():
    choose_gl()
    import mujoco

    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    ring = np.stack([np.cos(angles), np.sin(angles)], 1)
    points = [(x, y, z) for z in np.linspace(-1, 1, 12) for x, y in ring]
    vertices = " ".join(f"{v:.4f}" for point in points for v in point)
    model = mujoco.MjModel.from_xml_string(
        f"<mujoco><asset><mesh name='m' vertex='{vertices}'/></asset>"
        "<worldbody><geom type='mesh' mesh='m'/></worldbody></mujoco>"
    )
    faces, low, high = model.mesh_facenum[0], model.mesh_vert.min(0), model.mesh_vert.max(0)
    merge_vertices(model, np.zeros(1))
    assert model.mesh_facenum[0] == faces
    merge_vertices(model, np.full(1, 0.5))
    assert 4 <= model.mesh_facenum[0] < faces / 2
    assert (np.abs(model.mesh_vert.min(0) - low) < 0.5).all()
    assert (np.abs(model.mesh_vert.max(0) - high) < 0.5).all()


def test_the_cells_of_meshes_follow_whose_they_are_and_the_image_size():
    choose_gl()
    import mujoco

    mesh = "<mesh name='{}' vertex='0 0 0 1 0 0 0 1 0 0 0 1'/>"
    geom = "<geom type='mesh' mesh='{}'/>"
    model = mujoco.MjModel.from_xml_string(
        f"<mujoco><asset>{mesh.format('arm')}{mesh.format('cup')}</asset><worldbody>"
        f"<body>{geom.format('arm')}<body name='hand'>{geom.format('arm')}</body></body>"
        f"<body>{geom.format('cup')}</body></worldbody></mujoco>"
    )
    for size, scale in ((32, 1.0), (64, 1.0), (128, 0.5)):
        cells = mesh_cells(model, "hand", size, robot_cell=0.03, object_cell=0.01)
        np.testing.assert_allclose(cells, [0.03 * scale, 0.01 * scale])


def test_a_real_frame_of_a_suite_is_looked_at():
    library, frame = check_frames("franka_kitchen")
    assert library.ok
    assert frame.ok
    assert frame.found.startswith("2 views of 64 px in ")


def test_a_suite_that_cannot_be_drawn_is_found_out():
    _, frame = check_frames("no_such_suite")
    assert not frame.ok
    assert "no_such_suite" in frame.found
    assert frame.advice
