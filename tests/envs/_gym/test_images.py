"""Pictures: of any layout, drawn by MuJoCo, or rendered by the environment."""

from __future__ import annotations

import numpy as np
import pytest

from tests.envs.gym_environments import made
from vla_rl.envs._gym import images


@pytest.mark.parametrize("layout", ["hwc", "chw", "gray"])
def test_pictures_of_any_layout_arrive_upright_and_square(layout):
    env = made("gym:Painted-v0", image_size=16, success="none", kwargs=(f"layout={layout}",))
    env.start(0)
    image = env.observe().images[0].astype(int)
    assert env.spaces.views == ("observation",)
    assert image.shape == (16, 16, 3)
    upper, lower = image[0, 0], image[-1, -1]
    if layout == "gray":
        assert list(upper) == [250, 250, 250]
        assert lower[0] == lower[1] == lower[2] < 30
    else:
        assert upper[0] == lower[2] == 250
        assert max(upper[2], lower[0]) < 30
    # A new pixel is the mean of what it covers: the border lies in the middle of two rows.
    assert list(image[:8, 3, 0]) == [250] * 8


@pytest.mark.sim
def test_simulators_share_what_draws_them():
    one, two = made("gym:FetchReach-v4"), made("gym:FetchReach-v4")
    one.start(1)
    two.start(2)
    first, second = one.observe().images, two.observe().images
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(one.observe().images, first)
    assert one._painter._stage is two._painter._stage
    one.close()
    np.testing.assert_array_equal(two.observe().images, second)
    two.close()
    assert not images._stages


@pytest.mark.sim
def test_the_camera_does_not_depend_on_the_first_start_that_is_seen():
    pictures = []
    for seen_first in (5, 6):
        env = made("gym:HalfCheetah-v5", success="none")
        env.start(seen_first)
        env.observe()
        env.start(7)
        pictures.append(env.observe().images)
        env.close()
    np.testing.assert_array_equal(*pictures)


@pytest.mark.sim
def test_the_fast_picture_shows_what_gymnasium_renders():
    pictures = []
    for image, quality in (("mujoco", "fast"), ("mujoco", "full"), ("render", "fast")):
        env = made("gym:FetchReach-v4", image=(image,), quality=quality)
        env.start(2)
        pictures.append(env.observe().images[0].astype(float))
        env.close()
    fast, full, own = pictures
    assert own.std() > 20
    # Edges differ, surfaces do not.
    assert np.median(np.abs(full - own)) <= 2
    assert np.median(np.abs(fast - own)) <= 4
    assert np.corrcoef(fast.ravel(), own.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(
    ("frame", "message"),
    [("[[[0,0,0],[0,0,0]]]", "one colour only"), ("[[1,2]]", r"gave uint8 of shape \[1, 2\]")],
)
def test_a_frame_that_shows_nothing_is_refused(frame, message):
    env = made("gym:Rendered-v0", image=("render",), success="none", kwargs=(f"frame={frame}",))
    env.start(0)
    with pytest.raises(RuntimeError, match=message):
        env.observe()
