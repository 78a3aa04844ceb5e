"""Actions of a policy become those of any Gymnasium space."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from vla_rl import gym_spaces


@pytest.mark.parametrize(
    ("space", "action", "expected"),
    [
        (spaces.Box(np.array([-2, 0]), np.array([2, 10]), dtype=np.float64), [0, -0.5], [0, 2.5]),
        (spaces.Box(-1, 1, (2, 2)), [-1, 0.25, 0.5, 1], [[-1, 0.25], [0.5, 1]]),
        (spaces.Box(0, 4, (1,), np.int64), [0.2], [2]),
        (spaces.Discrete(3, start=5), [-0.2, 0.9, 0.1], 6),
        (spaces.MultiDiscrete([2, 3]), [0.1, 0.0, -1, -0.5, -0.2], [0, 2]),
        (spaces.MultiBinary(3), [0.5, -0.5, 0.0], [1, 0, 0]),
    ],
)
def test_actions_are_mapped_to_the_environments_own(space, action, expected):
    mapped = gym_spaces.action_map(space)
    assert mapped.size == len(action)
    found = mapped.to_env(np.array(action, np.float64))
    np.testing.assert_allclose(found, expected)
    assert space.contains(found)
    for edge in (-1.0, 1.0):
        assert space.contains(mapped.to_env(np.full(mapped.size, edge)))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(-np.inf, np.inf, (2,)), "no bounds.*RescaleAction"),
        (spaces.Dict(hand=spaces.Discrete(2)), "not supported; allowed: Box, Discrete"),
    ],
)
def test_actions_that_cannot_be_mapped_are_refused(space, message):
    with pytest.raises(ValueError, match=message):
        gym_spaces.action_map(space)
