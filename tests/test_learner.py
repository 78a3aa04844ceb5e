"""The only place that takes gradient steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers import make_policy, packed
from vla_rl.learner import Learner, LearnerConfig


def snapshot(policy):
    return {n: [p.detach().clone() for p in ps] for n, ps in policy.groups().items()}


@pytest.mark.parametrize("trains", [("head",), ("vlm", "head"), ("critic",)])
def test_only_the_trained_groups_move(trains):
    policy = make_policy()
    learner = Learner(policy, LearnerConfig(), trains)
    batch = packed(policy)
    before = snapshot(policy)
    for rows in learner.minibatches(batch, 16, np.random.default_rng(0)):
        scores = learner.evaluate(batch, rows)
        learner.step(scores.logprob.mean() + scores.value.square().mean() + scores.value.mean())
    after = snapshot(policy)
    for name in before:
        moved = any(not torch.equal(a, b) for a, b in zip(before[name], after[name], strict=True))
        assert moved == (name in trains), name


def test_minibatches_visit_every_decision_once():
    policy = make_policy()
    batch = packed(policy)
    learner = Learner(policy, LearnerConfig(), ("head",))
    parts = list(learner.minibatches(batch, 10, np.random.default_rng(0)))
    rows = np.concatenate(parts)
    assert sorted(map(tuple, rows)) == sorted(map(tuple, np.argwhere(batch.valid)))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_loss_that_is_not_finite_changes_nothing():
    policy = make_policy()
    learner = Learner(policy, LearnerConfig(), ("head",))
    before = snapshot(policy)
    parameter = policy.groups()["head"][0]
    with pytest.raises(FloatingPointError, match="nan"):
        learner.step((parameter * float("nan")).sum())
    after = snapshot(policy)
    assert all(torch.equal(a, b) for n in before for a, b in zip(before[n], after[n], strict=True))


def test_gradients_are_clipped_to_the_norm():
    policy = make_policy()
    learner = Learner(policy, LearnerConfig(max_grad_norm=0.5), ("head",))
    parameter = policy.groups()["head"][0]
    assert learner.step((100 * parameter).sum()) > 0.5
    assert float(parameter.grad.norm()) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("bad", [{"lr": 0.0}, {"vlm_lr": -1.0}, {"weight_decay": -0.1}])
def test_bad_optimizer_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        LearnerConfig(**bad)


def test_unknown_group_names_the_allowed_ones():
    with pytest.raises(ValueError, match=r"legs.*allowed.*head"):
        Learner(make_policy(), LearnerConfig(), ("legs",))
