"""The only place that takes gradient steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers import make_policy, packed
from vla_rl.learning.learner import Learner, LearnerConfig, LossNotFinite


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
        learner.accumulate(scores.logprob.mean() + (scores.value.square() + scores.value).mean())
        learner.step()
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


def unchanged(before, policy):
    after = snapshot(policy)
    return all(torch.equal(a, b) for n in before for a, b in zip(before[n], after[n], strict=True))


def test_a_loss_that_is_not_finite_is_skipped_and_counted():
    policy = make_policy()
    learner = Learner(policy, LearnerConfig(), ("head",))
    before = snapshot(policy)
    parameter = policy.groups()["head"][0]
    learner.accumulate(parameter.sum())
    learner.accumulate((parameter * float("nan")).sum())
    assert learner.step().norms == {}
    assert parameter.grad is None  # nothing of the step is left, the finite part neither
    assert unchanged(before, policy)
    assert (learner.steps, learner.skipped) == (0, 1)
    learner.accumulate(parameter.sum())  # and the next step is as if nothing had been
    assert learner.step().norms
    assert not unchanged(before, policy)


def test_a_gradient_that_is_not_finite_is_skipped_and_counted():
    policy = make_policy()
    learner = Learner(policy, LearnerConfig(), ("head",))
    before = snapshot(policy)
    parameter = policy.groups()["head"][0]
    learner.accumulate((parameter - parameter.detach()).sqrt().sum())  # 0, with slope infinity
    assert learner.step().norms == {}
    assert (learner.steps, learner.skipped) == (0, 1)
    assert parameter.grad is None
    assert unchanged(before, policy)


def test_many_steps_that_are_not_finite_end_the_run():
    policy = make_policy()
    learner = Learner(policy, LearnerConfig(), ("head",))
    parameter = policy.groups()["head"][0]

    def bad():
        learner.accumulate((parameter * float("nan")).sum())
        learner.step()

    for _ in range(9):
        bad()
    learner.accumulate(parameter.sum())
    learner.step()  # one good step, and the count begins anew
    for _ in range(9):
        bad()
    with pytest.raises(LossNotFinite, match="10 gradient steps in a row.*lower the learning rate"):
        bad()


def test_learning_rates_rise_and_fall_by_hand():
    config = LearnerConfig(warmup_steps=4)
    assert [config.rate_factor(step, 0.5) for step in (0, 1, 3, 9)] == [0.25, 0.5, 1, 1]
    linear = LearnerConfig(warmup_steps=0, lr_schedule="linear")
    assert [linear.rate_factor(0, done) for done in (0, 0.25, 1)] == [1, 0.75, 0]
    cosine = LearnerConfig(warmup_steps=2, lr_schedule="cosine")
    assert cosine.rate_factor(0, 0.5) == pytest.approx(0.25)
    assert cosine.rate_factor(5, 1.0) == pytest.approx(0)


def test_a_restored_optimizer_takes_the_rates_that_are_configured():
    old = Learner(make_policy(), LearnerConfig(lr=1e-4, weight_decay=0.1), ("head",))
    new = Learner(make_policy(), LearnerConfig(lr=5e-3, warmup_steps=0), ("head",))
    new.optimizer.load_state_dict(old.optimizer.state_dict())
    new.accumulate(new.policy.groups()["head"][0].sum())
    new.step()
    head = new.optimizer.param_groups[0]
    assert (head["name"], head["lr"], head["weight_decay"]) == ("head", 5e-3, 0.0)


def gradient_at_step(learner, parameter):
    """A list that grows by the parameter's gradient before every step."""
    seen = []
    learner.optimizer.register_step_pre_hook(lambda *_: seen.append(parameter.grad.clone()))
    return seen


def test_gradients_are_clipped_to_the_norm():
    policy = make_policy()
    learner = Learner(policy, LearnerConfig(max_grad_norm=0.5), ("head",))
    parameter = policy.groups()["head"][-1]
    seen = gradient_at_step(learner, parameter)
    learner.accumulate((100 * parameter).sum())
    step = learner.step()
    assert step.norms["head"] > 0.5
    assert step.clipped["head"]
    assert float(seen[0].norm()) == pytest.approx(0.5, rel=1e-3)


def test_losses_add_up_until_the_step():
    policy = make_policy()
    learner = Learner(policy, LearnerConfig(max_grad_norm=1e9), ("head",))
    parameter = policy.groups()["head"][-1]
    seen = gradient_at_step(learner, parameter)
    learner.accumulate(parameter.sum())
    learner.accumulate((2 * parameter).sum())
    step = learner.step()
    assert (seen[0] == 3).all()
    assert not step.clipped["head"]
    assert step.norms["head"] == pytest.approx(3 * parameter.numel() ** 0.5)
    learner.accumulate(parameter.sum())  # and begin anew after it
    learner.step()
    assert (seen[1] == 1).all()
    assert learner.steps == 2


def test_the_regulariser_is_part_of_every_step():
    policy = make_policy()
    learner = Learner(policy, LearnerConfig(max_grad_norm=1e9), ("head",))
    parameter = policy.groups()["head"][0]
    asked = []

    def regulariser(step):
        asked.append(step)
        yield (2 * parameter).sum()
        yield (3 * parameter).sum()

    learner.regulariser = regulariser
    seen = gradient_at_step(learner, parameter)
    for _ in range(2):
        learner.accumulate(parameter.sum())
        learner.step()
    assert asked == [0, 1]
    assert all((gradient == 6).all() for gradient in seen)


def test_a_large_gradient_of_the_critic_leaves_the_actors_alone():
    policy = make_policy()
    learner = Learner(policy, LearnerConfig(max_grad_norm=1.0), ("head", "critic"))
    actor, critic = policy.groups()["head"][-1], policy.groups()["critic"][-1]
    seen = gradient_at_step(learner, actor)
    learner.accumulate(1e-3 * actor.sum() + 1e3 * critic.sum())
    step = learner.step()
    assert (step.clipped["head"], step.clipped["critic"]) == (False, True)
    torch.testing.assert_close(seen[0], torch.full_like(seen[0], 1e-3))


def test_log_probs_of_a_batch_are_those_at_acting(monkeypatch):
    policy = make_policy()
    learner = Learner(policy, LearnerConfig(), ("head",))
    batch = packed(policy)
    monkeypatch.setattr("vla_rl.learning.learner.ROWS_WITHOUT_GRADIENT", 10)  # in several pieces
    found = learner.logprobs(batch, policy)
    assert not found.requires_grad
    acted = torch.from_numpy(batch.chunk.logprob)
    made = torch.from_numpy(batch.valid)
    torch.testing.assert_close(found[made], acted[made], atol=1e-4, rtol=1e-4)
    assert not found[~made].any()
    nothing = batch.only(np.zeros(len(batch), bool))
    assert not learner.logprobs(nothing, policy).any()


@pytest.mark.parametrize(
    "bad", [{"lr": 0.0}, {"vlm_lr": -1.0}, {"critic_lr": 0.0}, {"weight_decay": -0.1}]
)
def test_bad_optimizer_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        LearnerConfig(**bad)


def test_unknown_group_names_the_allowed_ones():
    with pytest.raises(ValueError, match=r"legs.*allowed.*head"):
        Learner(make_policy(), LearnerConfig(), ("legs",))


def test_the_rate_of_a_group_that_waited_rises_from_its_own_first_step():
    """As PPO's actor, which waits while its critic warms up."""
    policy = make_policy()
    learner = Learner(
        policy, LearnerConfig(lr=1.0, critic_lr=1.0, warmup_steps=4), ("head", "critic")
    )
    critic, head = policy.groups()["critic"][-1], policy.groups()["head"][-1]

    def rates():
        return {g["name"]: g["lr"] for g in learner.optimizer.param_groups}

    for _ in range(3):
        learner.accumulate(critic.sum())
        learner.step()
    assert rates()["critic"] == 0.75
    learner.accumulate(critic.sum() + head.sum())
    learner.step()
    assert (rates()["critic"], rates()["head"]) == (1.0, 0.25)
