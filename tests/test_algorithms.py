"""The contract of every algorithm in the folder, and what is particular to LOOP."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers import fake_returns, make_policy, packed, play_groups
from vla_rl import functional as F
from vla_rl import plugins
from vla_rl.algorithms import loop
from vla_rl.learner import Learner, LearnerConfig
from vla_rl.types import RolloutBatch

ALGORITHMS = plugins.names("algorithms")


def weights(policy):
    return {name: tensor.clone() for name, tensor in policy.state_dict().items()}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_equal_rewards_give_no_policy_gradient(name):
    algorithm = plugins.load("algorithms", name).Algorithm()
    policy = make_policy()
    learner = Learner(policy, LearnerConfig(weight_decay=0.0), algorithm.trains)
    size = algorithm.group_size
    groups = [fake_returns(g, [1.0] * size) for g in play_groups(policy, 3, size)]
    before = weights(policy)
    algorithm.update(learner, RolloutBatch.pack(groups), np.random.default_rng(0))
    after = weights(policy)
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_untrained_groups_stay_bit_equal_and_logs_are_finite(name):
    algorithm = plugins.load("algorithms", name).Algorithm()
    policy = make_policy()
    learner = Learner(policy, LearnerConfig(), algorithm.trains)
    frozen = [p for n, ps in policy.groups().items() if n not in algorithm.trains for p in ps]
    before = [p.detach().clone() for p in frozen]
    log = algorithm.update(
        learner, packed(policy, size=algorithm.group_size), np.random.default_rng(0)
    )
    assert all(torch.equal(a, b) for a, b in zip(before, frozen, strict=True))
    assert log
    assert all(np.isfinite(value) for value in log.values())
    assert learner.version == 1


@pytest.mark.parametrize("name", ALGORITHMS)
def test_state_round_trips_as_json(name):
    algorithm = plugins.load("algorithms", name).Algorithm()
    state = json.loads(json.dumps(algorithm.state_dict()))
    algorithm.load_state_dict(state)
    assert algorithm.state_dict() == state


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_update_is_a_function_of_its_arguments(name):
    algorithm = plugins.load("algorithms", name).Algorithm()
    results = []
    for _ in range(2):
        policy = make_policy()
        learner = Learner(policy, LearnerConfig(), algorithm.trains)
        batch = packed(policy, size=algorithm.group_size)
        algorithm.update(learner, batch, np.random.default_rng(7))
        results.append(weights(policy))
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


def test_loop_keeps_groups_with_contrast_only():
    group = play_groups(make_policy(), 3, 4)[0]
    algorithm = loop.Algorithm(group_size=4)
    assert not algorithm.keep(fake_returns(group, [0.0] * 4))
    assert not algorithm.keep(fake_returns(group, [1.0] * 4))
    assert not algorithm.keep(fake_returns(group, [1.0, 1.0, 1.0 + 1e-8, 1.0]))
    assert algorithm.keep(fake_returns(group, [1.0, 0.0, 0.0, 0.0]))


def test_loop_moves_towards_what_worked():
    policy = make_policy()
    learner = Learner(policy, LearnerConfig(lr=1e-3), ("head",))
    batch = packed(policy)
    rows = np.argwhere(batch.valid)
    good = batch.chunk.logprob.sum(-1)[rows[:, 0], rows[:, 1]]
    loop.Algorithm(group_size=4, target_kl=0.0).update(learner, batch, np.random.default_rng(0))
    after = learner.evaluate(batch, rows).logprob.sum(-1).detach().numpy()
    worked = batch.reward.sum(1)[rows[:, 0]] > 0
    gain = after - good
    assert gain[worked].mean() > gain[~worked].mean()


def test_the_first_gradient_is_that_of_leave_one_out_reinforce():
    """On-policy the ratio is 1, so LOOP's first step is RLOO's: computed here the long way."""
    policy = make_policy()
    learner = Learner(policy, LearnerConfig(max_grad_norm=1e9), ("head",))
    batch = packed(policy)
    algorithm = loop.Algorithm(group_size=4, ppo_epochs=1, ppo_mini_batch_size=10_000)
    rows = np.argwhere(batch.valid)
    scores = learner.evaluate(batch, rows)
    returns = batch.reward.sum(1)
    others = (returns.reshape(-1, 4).sum(1).repeat(4) - returns) / 3
    steps = batch.mask.reshape(len(batch), -1, 3, batch.mask.shape[2] // 3).any(-1).sum((1, 2))
    weight = (returns - others) / steps / len(batch)
    mask = torch.from_numpy(batch.mask[rows[:, 0], rows[:, 1]])
    per_row = torch.where(mask, scores.logprob, torch.zeros(())).sum(-1)
    loss = -(torch.from_numpy(weight[rows[:, 0]]) * per_row).sum()
    head = policy.groups()["head"]
    expected = torch.autograd.grad(loss, head, allow_unused=True)
    algorithm.update(learner, batch, np.random.default_rng(0))
    for parameter, gradient in zip(head, expected, strict=True):
        if gradient is not None:
            torch.testing.assert_close(parameter.grad, gradient.float(), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("level", ["token", "action", "chunk"])
@pytest.mark.parametrize("mode", ["seq-mean-token-mean", "token-mean", "seq-mean-token-sum"])
def test_every_level_and_aggregation_runs(level: F.RatioLevel, mode: F.Aggregation):
    policy = make_policy()
    learner = Learner(policy, LearnerConfig(), ("head",))
    algorithm = loop.Algorithm(group_size=4, importance_sampling_level=level, loss_agg_mode=mode)
    log = algorithm.update(learner, packed(policy), np.random.default_rng(0))
    assert log["actor/updates"] >= 1


@pytest.mark.parametrize(
    "bad",
    [{"group_size": 1}, {"clip_ratio_low": 0.0}, {"clip_ratio_high": -1.0}, {"ppo_epochs": 0}],
)
def test_loop_refuses_bad_settings(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        loop.Algorithm(**bad)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_setting_has_help(name):
    algorithm = plugins.load("algorithms", name).Algorithm
    source = Path(plugins.load("algorithms", name).__file__).read_text()
    for field in fields(algorithm):
        after = source.split(f"    {field.name}: ", 1)[1].split("\n", 1)[1].lstrip()
        assert after.startswith('"""'), f"{field.name} has no help string"
