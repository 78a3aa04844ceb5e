"""PPO's critic: what it learns, and the advantages that are made of it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.helpers import fake_returns, fresh, play_groups
from tests.learning.helpers import SIZE, make_learner, rows_of, same_weights, weights, with_chunk
from vla_rl import functional as F
from vla_rl.algorithms import ppo
from vla_rl.types import RolloutBatch

CRITIC = ("head", "critic")


def test_the_critic_is_trained_alone_first(batch):
    learner = make_learner(CRITIC)
    algorithm = ppo.Algorithm(critic_warmup=2)
    for wait in (True, True, False):
        before = {n: [p.clone() for p in ps] for n, ps in learner.policy.groups().items()}
        algorithm.update(learner, batch, fresh(algorithm), np.random.default_rng(0))
        after = learner.policy.groups()
        kept = {
            name: all(torch.equal(a, b) for a, b in zip(before[name], after[name], strict=True))
            for name in after
        }
        assert kept == {"vlm": True, "head": wait, "critic": False}


def test_the_critic_learns_the_returns_of_a_batch(groups):
    paid = [fake_returns(group, [g / 2] * SIZE) for g, group in enumerate(groups)]
    batch = RolloutBatch.pack(paid)
    learner = make_learner(CRITIC)
    algorithm = ppo.Algorithm(gamma=1.0, gae_lambda=1.0, cliprange_value=0.0, critic_warmup=99)
    rows = rows_of(batch)
    wanted = batch.reward.sum(1)[rows[:, 0]]

    state = fresh(algorithm)

    def error():
        said = state.mean + state.scale * learner.evaluate(batch, rows).value.detach().numpy()
        return np.mean((said - wanted) ** 2)

    before = error()
    for _ in range(30):
        log = algorithm.update(learner, batch, state, np.random.default_rng(0))
    assert error() < 0.1 * before
    assert np.isfinite(log["critic/vf_loss"])


def test_a_time_limit_is_continued_and_an_end_is_not(batch):
    algorithm = ppo.Algorithm(gamma=0.9, gae_lambda=0.5, whiten_advantages=False)
    reward = torch.from_numpy(batch.reward)
    value = np.random.default_rng(0).normal(size=batch.valid.shape).astype(np.float32)
    batch = with_chunk(replace(batch, final_value=np.ones(len(batch), np.float32)), value=value)
    every = np.ones(len(batch), bool)

    def advantage(bootstrapped):
        state = fresh(algorithm)  # mean 0 and scale 1: the critic speaks in units of reward
        credit = algorithm.credit(replace(batch, bootstrapped=bootstrapped), reward, state)
        assert credit.target is not None
        target = torch.from_numpy(value) + credit.advantage * state.scale
        valid = torch.from_numpy(batch.valid)
        known = (target - state.mean) / state.scale
        torch.testing.assert_close(credit.target[valid], known[valid])
        return credit.advantage * state.scale

    ended, cut = advantage(~every), advantage(every)
    more = (cut - ended).numpy()
    for row, count in enumerate(batch.valid.sum(1)):
        # 0.9 at the last decision, and 0.9 * 0.5 of that at the one before, ...
        expected = 0.9 * 0.45 ** np.arange(count)[::-1]
        np.testing.assert_allclose(more[row, :count], expected, rtol=1e-3)
        assert not more[row, count:].any()
        last = count - 1
        delta = reward[row, last] - value[row, last]  # of an end: nothing comes after
        assert float(ended[row, last]) == pytest.approx(float(delta), rel=1e-5)


def test_only_episodes_that_time_cut_have_a_final_value():
    def sure(policy):
        policy.critic[-1].bias += 0.25

    learner = make_learner(CRITIC, change=sure)
    episodes = [t for g in play_groups(learner.policy, 30, 8, final_value=True) for t in g]
    assert {t.final_value for t in episodes if t.truncated} == {0.25}
    assert {t.final_value for t in episodes if not t.truncated} == {0.0}


def test_explained_variance_by_hand(batch):
    algorithm = ppo.Algorithm(gamma=1.0, gae_lambda=1.0)
    reward = torch.from_numpy(batch.reward)
    togo = F.returns_to_go(reward).numpy()
    all_of_it = algorithm.credit(with_chunk(batch, value=togo), reward, fresh(algorithm))
    assert all_of_it.log["critic/vf_explained_var"] == pytest.approx(1)
    zeros = with_chunk(batch, value=np.zeros_like(togo))
    nothing = algorithm.credit(zeros, reward, fresh(algorithm))
    assert nothing.log["critic/vf_explained_var"] == pytest.approx(0, abs=1e-6)


def test_return_statistics_by_hand():
    state = fresh(ppo.Algorithm())
    assert (state.mean, state.scale) == (0, 1)
    state.remember(torch.tensor([1.0, 3.0]))
    assert (state.mean, state.spread) == (pytest.approx(2), pytest.approx(1))
    state.remember(torch.tensor([5.0, 5.0]))
    # weights .9 and 1: mean (.9 * 2 + 5) / 1.9, mean square (.9 * 5 + 25) / 1.9
    assert state.mean == pytest.approx(6.8 / 1.9)
    assert state.spread == pytest.approx((29.5 / 1.9 - (6.8 / 1.9) ** 2) ** 0.5)
    again = fresh(ppo.Algorithm())
    again.load_state_dict(json.loads(json.dumps(state.state_dict())))
    assert again == state
    flat = fresh(ppo.Algorithm())
    flat.remember(torch.full((9,), 0.1))  # equal returns have no deviation, but rounding
    assert (flat.spread, flat.scale) == (0, 1)


def test_a_batch_without_any_reward_ever_moves_no_policy(groups):
    """All that is left of its advantages are the critic's errors."""

    def sure(policy):
        torch.nn.init.normal_(policy.critic[-1].weight)

    nothing = RolloutBatch.pack([fake_returns(g, [0.0] * SIZE) for g in groups])
    learner = make_learner(CRITIC, change=sure)
    said = learner.evaluate(nothing, rows_of(nothing)).value
    assert float(said.detach().std()) > 0.1
    algorithm, head = ppo.Algorithm(critic_warmup=0), learner.policy.groups()["head"]
    before = [p.clone() for p in head]
    state = fresh(algorithm)
    algorithm.update(learner, nothing, state, np.random.default_rng(0))
    assert all(torch.equal(a, b) for a, b in zip(before, head, strict=True))
    # Later, beside rewards that were met, the errors count for no more than they are.
    state.remember(torch.tensor([-1000.0, 1000.0]))
    credit = algorithm.credit(
        with_chunk(nothing, value=0 * nothing.chunk.value), torch.zeros(nothing.valid.shape), state
    )
    assert not credit.advantage.any()


@pytest.mark.parametrize("factor", [2.0**-7, 2.0**7])
def test_ppo_learns_the_same_whatever_the_unit_of_reward(groups, factor):
    """Powers of two, which floats multiply exactly: then every weight is the same."""

    def after(factor):
        paid = [
            fake_returns(g, [factor * (0.1 * i + n) for i in range(SIZE)])
            for n, g in enumerate(groups)
        ]
        learner = make_learner(CRITIC)
        algorithm = ppo.Algorithm(critic_warmup=1, ppo_epochs=2, ppo_mini_batch_size=10)
        state = fresh(algorithm)
        for update in range(3):
            rng = np.random.default_rng(update)
            algorithm.update(learner, RolloutBatch.pack(paid), state, rng)
        return weights(learner)

    assert same_weights(after(1.0), after(factor))
