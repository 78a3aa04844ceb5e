"""The policy in one process, simulators in others."""

from __future__ import annotations

from tests.rollout.helpers import specs_of
from vla_rl.rollout.served import owners


def test_a_group_stays_in_one_worker():
    specs = specs_of(groups=2, size=3)
    owner = owners(specs, 2)
    assert owner.tolist() == [0] * 3 + [1] * 3 + [0] * 3 + [1] * 3 + [0] * 3 + [1] * 3
