"""What every way to play has to come to."""

from __future__ import annotations

import pytest

from tests.helpers import make_policy
from tests.rollout.helpers import play_here, specs_of
from vla_rl.rollout.collector import episode_keys


@pytest.fixture(scope="module")
def reference():
    policy, specs = make_policy(), specs_of()
    keys = episode_keys(0, "one", count=len(specs))
    return policy, specs, keys, play_here(policy, specs, keys)
