"""The contract of every reward, and numbers by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.helpers import make_policy, play_groups
from vla_rl import plugins
from vla_rl.episode_end import EpisodeEnd
from vla_rl.rewards import overlong, sparse, speed, subgoals

END = EpisodeEnd()


@pytest.fixture(scope="module")
def episodes():
    return [t for group in play_groups(make_policy(), 6, 4) for t in group]


@pytest.mark.parametrize("name", plugins.names("rewards"))
def test_contract(name, episodes):
    reward = plugins.load("rewards", name).reward
    for t in episodes:
        before = t.env_reward.copy(), t.reward.copy(), t.progress.copy()
        paid = reward(t, END)
        assert paid.shape == (t.decisions,)
        assert paid.dtype == np.float32
        assert np.isfinite(paid).all()
        for old, new in zip(before, (t.env_reward, t.reward, t.progress), strict=True):
            np.testing.assert_array_equal(old, new)


def test_sparse_pays_once_at_success(episodes):
    for t in episodes:
        paid = sparse.reward(t, END)
        assert paid.sum() == float(t.success)
        assert not paid[:-1].any()


def test_subgoals_pay_each_part_when_it_is_done(episodes):
    t = of_length(episodes[0], 4, success=False)
    task = replace(t.spec.task, subgoals=("kettle", "microwave", "light", "cabinet"))
    bits = np.array([0, 0b0100, 0b0100, 0b0111, 0b0111], np.int64)  # one, none, two at once, none
    sequence = replace(t, spec=replace(t.spec, task=task), completed=bits)
    np.testing.assert_allclose(subgoals.reward(sequence, END), [0.25, 0, 0.5, 0])
    assert sequence.subgoals_done == ("kettle", "microwave", "light")
    assert sequence.share_done == 0.75


def test_subgoals_is_sparse_for_a_task_without_parts(episodes):
    for t in episodes:
        np.testing.assert_array_equal(subgoals.reward(t, END), sparse.reward(t, END))
        assert t.share_done == float(t.success)


def of_length(t, decisions, success):
    """Decisions of three steps that were all executed; the horizon is 30."""
    task = replace(t.spec.task, max_steps=30)
    return replace(
        t,
        spec=replace(t.spec, task=task),
        env_reward=np.zeros(decisions, np.float32),
        executed=np.ones((decisions, 3), bool),
        success=success,
        truncated=not success,
    )


# steps 24 of 30 and fewer cost nothing, then up to 1
@pytest.mark.parametrize(("decisions", "paid"), [(1, 0), (8, 0), (9, -0.5), (10, -1)])
def test_overlong_punishes_slow_successes(episodes, decisions, paid):
    found = overlong.reward(of_length(episodes[0], decisions, success=True), END)
    assert found[-1] == pytest.approx(paid)
    assert not found[:-1].any()


def test_overlong_does_not_punish_failures(episodes):
    assert not overlong.reward(of_length(episodes[0], 10, success=False), END).any()


def test_overlong_punishment_ends_at_the_limit():
    assert overlong.overlong_penalty(100, limit=30, cache=6) == -1


@pytest.mark.parametrize(("decisions", "paid"), [(1, 0.97), (5, 0.85), (10, 0.7)])
def test_speed_pays_more_for_an_earlier_success(episodes, decisions, paid):
    found = speed.reward(of_length(episodes[0], decisions, success=True), END)
    assert found[-1] == pytest.approx(paid)
    assert not found[:-1].any()
    assert not speed.reward(of_length(episodes[0], decisions, success=False), END).any()


def test_an_episode_that_ends_inside_a_chunk_is_as_long_as_what_was_executed(episodes):
    t = of_length(episodes[0], 9, success=True)
    t.executed[-1, 1:] = False  # 25 steps instead of 27
    assert overlong.reward(t, END)[-1] == pytest.approx(-1 / 6)
    assert speed.reward(t, END)[-1] == pytest.approx(1 - 0.3 * 25 / 30)


def test_overlong_punishes_nobody_where_success_does_not_end_an_episode(episodes):
    t = of_length(episodes[0], 10, success=True)
    assert not overlong.reward(replace(t, truncated=True), END).any()
