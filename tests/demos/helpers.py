"""What tests of demonstrations compare with."""

from __future__ import annotations

import numpy as np

from vla_rl.types import Array, Demonstration


def assert_equal(left: Demonstration, right: Demonstration) -> None:
    assert (left.spec, left.success, left.source) == (right.spec, right.success, right.source)
    arrays: list[tuple[Array, Array]] = [
        (left.obs.images, right.obs.images),
        (left.obs.state, right.obs.state),
        (left.actions, right.actions),
        (left.reward, right.reward),
    ]
    for a, b in arrays:
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
