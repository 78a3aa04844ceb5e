"""Settings of the rollout, and keys of episodes."""

from __future__ import annotations

import pytest

from vla_rl.rollout.collector import RolloutConfig, episode_keys


def test_keys_differ_and_repeat():
    keys = episode_keys(3, "use", 4, count=100)
    assert len(set(keys)) == 100
    assert keys == episode_keys(3, "use", 4, count=100)
    assert keys[:10] != episode_keys(3, "use", 5, count=10)


@pytest.mark.parametrize(
    "bad",
    [{"workers": -1}, {"max_in_flight": 0}, {"timeout": 0.0}],
    ids=lambda bad: next(iter(bad)),
)
def test_bad_rollout_settings_are_refused(bad):
    with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
        RolloutConfig(**bad)
