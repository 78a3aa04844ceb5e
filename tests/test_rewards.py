"""The contract of every reward, and numbers by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.helpers import make_policy, play_groups
from vla_rl import plugins
from vla_rl.rewards import dense, overlong, progress, sparse, speed, subgoals
from vla_rl.types import with_reward


@pytest.fixture(scope="module")
def episodes():
    return [t for group in play_groups(make_policy(), 6, 4) for t in group]


@pytest.mark.parametrize("name", plugins.names("rewards"))
def test_contract(name, episodes):
    reward = plugins.load("rewards", name).reward
    for t in episodes:
        before = t.env_reward.copy(), t.reward.copy(), t.progress.copy()
        paid = reward(t)
        assert paid.shape == (t.decisions,)
        assert paid.dtype == np.float32
        assert np.isfinite(paid).all()
        for old, new in zip(before, (t.env_reward, t.reward, t.progress), strict=True):
            np.testing.assert_array_equal(old, new)


def test_sparse_pays_once_at_success(episodes):
    for t in episodes:
        paid = sparse.reward(t)
        assert paid.sum() == float(t.success)
        assert not paid[:-1].any()


def test_progress_telescopes(episodes):
    for t in episodes:
        gained = t.progress[-1] - t.progress[0]
        assert progress.reward(t).sum() == pytest.approx(gained, abs=1e-5)


def test_dense_makes_early_success_worth_more_than_hovering(episodes):
    t = episodes[0]
    task = replace(t.spec.task, suite="metaworld", max_steps=20)
    # two decisions of three steps, 10 per step, solved after 6 of 20 steps: (60 + 140) / 200
    solved = replace(
        t,
        spec=replace(t.spec, task=task),
        env_reward=np.array([30.0, 30.0], np.float32),
        executed=np.ones((2, 3), bool),
        success=True,
    )
    assert dense.reward(solved).sum() == pytest.approx(1.0)
    hovering = replace(solved, success=False)
    assert dense.reward(hovering).sum() == pytest.approx(0.3)


def test_dense_is_the_bare_reward_of_a_suite_that_does_not_scale_it(episodes):
    for t in episodes:
        np.testing.assert_array_equal(dense.reward(t), t.env_reward)


def test_subgoals_pay_each_part_when_it_is_done(episodes):
    t = of_length(episodes[0], 4, success=False)
    task = replace(t.spec.task, subgoals=("kettle", "microwave", "light", "cabinet"))
    bits = np.array([0, 0b0100, 0b0100, 0b0111, 0b0111], np.int64)  # one, none, two at once, none
    sequence = replace(t, spec=replace(t.spec, task=task), completed=bits)
    np.testing.assert_allclose(subgoals.reward(sequence), [0.25, 0, 0.5, 0])
    assert sequence.subgoals_done == ("kettle", "microwave", "light")
    assert sequence.share_done == 0.75


def test_subgoals_is_sparse_for_a_task_without_parts(episodes):
    for t in episodes:
        np.testing.assert_array_equal(subgoals.reward(t), sparse.reward(t))
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
    )


# steps 24 of 30 and fewer cost nothing, then up to 1
@pytest.mark.parametrize(("decisions", "paid"), [(1, 0), (8, 0), (9, -0.5), (10, -1)])
def test_overlong_punishes_slow_successes(episodes, decisions, paid):
    found = overlong.reward(of_length(episodes[0], decisions, success=True))
    assert found[-1] == pytest.approx(paid)
    assert not found[:-1].any()


def test_overlong_does_not_punish_failures(episodes):
    assert not overlong.reward(of_length(episodes[0], 10, success=False)).any()


def test_overlong_punishment_ends_at_the_limit():
    assert overlong.overlong_penalty(100, limit=30, cache=6) == -1


@pytest.mark.parametrize(("decisions", "paid"), [(1, 0.97), (5, 0.85), (10, 0.7)])
def test_speed_pays_more_for_an_earlier_success(episodes, decisions, paid):
    found = speed.reward(of_length(episodes[0], decisions, success=True))
    assert found[-1] == pytest.approx(paid)
    assert not found[:-1].any()
    assert not speed.reward(of_length(episodes[0], decisions, success=False)).any()


def test_an_episode_that_ends_inside_a_chunk_is_as_long_as_what_was_executed(episodes):
    t = of_length(episodes[0], 9, success=True)
    t.executed[-1, 1:] = False  # 25 steps instead of 27
    assert overlong.reward(t)[-1] == pytest.approx(-1 / 6)
    assert speed.reward(t)[-1] == pytest.approx(1 - 0.3 * 25 / 30)


def test_rewards_add_up(episodes):
    t = episodes[0]
    both = with_reward(t, [sparse.reward, progress.reward])
    np.testing.assert_allclose(both.reward, sparse.reward(t) + progress.reward(t))
    assert not with_reward(t, []).reward.any()
