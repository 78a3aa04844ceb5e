"""Every attribute of an episode by hand, and attributes of a user."""

from __future__ import annotations

import numpy as np
import pytest

from vla_rl.learning import attributes
from vla_rl.types import ActionChunk, EpisodeSpec, Observation, Task, Trajectory


def episode() -> Trajectory:
    """Two decisions of three actions of two numbers, which ends after the fifth action."""
    actions = np.array(
        [[[1, 1], [0, -1], [0, -1]], [[1, 1], [0, 0.5], [9, -9]]], np.float32
    )  # the last one was never executed
    positions = np.array([[0, 0, 0, 5], [3, 4, 0, 6]], np.float32)
    nothing = np.zeros((2, 0), np.float32)
    return Trajectory(
        spec=EpisodeSpec(Task("a_suite", "a_task", "do it", 20), seed=0),
        obs=Observation(np.zeros((2, 0, 8, 8, 3), np.uint8), positions),
        chunk=ActionChunk(
            actions=actions,
            raw=actions.reshape(2, 6),
            logprob=np.array([[-1, -2, -3, -4, -5, -6], [0, 1, 2, 3, 99, 99]], np.float32),
            value=np.zeros(2, np.float32),
            features=nothing,
        ),
        executed=np.array([[True, True, True], [True, True, False]]),
        env_reward=np.zeros(2, np.float32),
        reward=np.zeros(2, np.float32),
        progress=np.zeros(3, np.float32),
        completed=np.zeros(3, np.int64),
        final_value=0.0,
        success=True,
        truncated=False,
        policy_version=0,
    )


BY_HAND = {
    "decisions": 2,
    "steps": 5,
    "path_length": 5,  # from (0, 0, 0) to (3, 4, 0); the fourth number is no position
    "action_energy": 2 + 1 + 1 + 2 + 0.25,
    # actions (1, 1), (0, -1), (0, -1), (1, 1), (0, .5); differences (-1, -2), (0, 0), (1, 2),
    # (-1, -.5); second differences (1, 2), (1, 2), (-2, -2.5)
    "jerk": (5 + 5 + 4 + 6.25) / 3,
    "gripper_toggles": 2,  # + - - + +
    "surprise": (21 - 6) / 10,
}


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name):
    found = attributes.named(name)(episode())
    assert isinstance(found, float)
    assert found == pytest.approx(BY_HAND[name])


def test_every_attribute_is_worked_by_hand():
    assert set(BY_HAND) == set(attributes.BUILT_IN)


def test_jerk_of_episodes_that_are_too_short_for_it():
    short = episode()
    short.executed[:] = [[True, True, False], [False, False, False]]
    assert attributes.jerk(short) == 0


def test_attributes_leave_the_episode_alone():
    t, untouched = episode(), episode()
    for attribute in attributes.BUILT_IN.values():
        attribute(t)
    for name in ("actions", "raw", "logprob"):
        np.testing.assert_array_equal(getattr(t.chunk, name), getattr(untouched.chunk, name))
    np.testing.assert_array_equal(t.executed, untouched.executed)


def twice_the_steps(trajectory: Trajectory) -> float:
    return 2.0 * trajectory.steps


def test_a_users_attribute_by_dotted_path():
    assert attributes.named("tests.learning.test_attributes.twice_the_steps")(episode()) == 10


def test_unknown_names_are_answered_with_near_ones():
    with pytest.raises(ValueError, match=r"'jork'; did you mean 'jerk'.*package\.module\.function"):
        attributes.named("jork")


@pytest.mark.parametrize(
    "path", ["tests.learning.test_attributes.nothing", "no_such_module.attribute"]
)
def test_paths_that_lead_nowhere_are_named(path):
    with pytest.raises(ValueError, match=f"{path}' cannot be imported"):
        attributes.named(path)
