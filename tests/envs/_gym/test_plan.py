"""What a policy is shown, decided and refused before anything is played."""

from __future__ import annotations

import numpy as np
import pytest

from tests.envs.gym_environments import made
from vla_rl import plugins


def test_parts_of_an_observation_are_found_or_named():
    everything = made("gym:Painted-v0", success="none", kwargs=("parts=true",))
    everything.start(0)
    seen = everything.observe()
    assert everything.spaces.views == ("pixels/top", "pixels/wrist")
    assert seen.images[0].max() == 250
    assert seen.images[1].max() == 125
    number = seen.state[0]
    np.testing.assert_array_equal(seen.state, [number, -number, 0, 0, 1])  # the mode is one-hot
    some = made(
        "gym:Painted-v0",
        image=("pixels/wrist",),
        state=("mode",),
        success="none",
        kwargs=("parts=true",),
    )
    some.start(0)
    assert some.observe().images[0].max() == 125
    np.testing.assert_array_equal(some.observe().state, [0, 0, 1])
    np.testing.assert_allclose(some.privileged, seen.state, rtol=1e-6)


def test_every_goal_is_in_the_state():
    assert made("gym:FetchReach-v4", image=("none",)).spaces.state_dim == 10 + 3 + 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image": ("pixels/front",)}, r"'pixels/front'.*did you mean.*'pixels/top'"),
        ({"image": ("hand",)}, r"unknown image.*'hand'.*an image is uint8"),
        ({"image": ("render",)}, "no render mode rgb_array"),
        ({"image": ("pixels/top", "pixels/top")}, "each once"),
        ({"image": ()}, "at least one"),
        ({"image": ("mujoco",)}, "unknown image.*'mujoco'"),
        ({"state": ("hands",)}, "did you mean 'hand'"),
        ({"state": ("hand", "hand")}, "each once"),
        ({"image": ("none",), "state": ("none",)}, "show a policy nothing"),
        ({"image_size": 8}, "8 is outside"),
        ({"quality": "best"}, "unknown quality 'best'"),
        ({"success": "return>=often"}, "number after >=, got 'often'"),
        ({"success": "return > 5"}, "unknown success 'return > 5'"),
        ({"success": "auto"}, r"info has progress and.*return>=X"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_played(settings, message):
    suite = plugins.load("envs", "gym:Painted-v0")
    given = {"success": "none", "kwargs": ("parts=true",), **settings}
    with pytest.raises(ValueError, match=message):
        suite.spaces(suite.Settings(**given))


def test_what_ignores_its_seed_is_refused():
    with pytest.raises(ValueError, match="same seed twice"):
        made("gym:Painted-v0", kwargs=("parts=true", "seeded=false"), success="none")
