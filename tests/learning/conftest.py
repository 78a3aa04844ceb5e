"""The batch that the tests of updates share."""

from __future__ import annotations

import pytest

from tests.learning.helpers import make_learner, uneven_groups
from vla_rl.types import RolloutBatch


@pytest.fixture(scope="module")
def groups():
    return uneven_groups(make_learner())


@pytest.fixture(scope="module")
def batch(groups):
    return RolloutBatch.pack(groups)
