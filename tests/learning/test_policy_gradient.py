"""The update that the policy-gradient family shares: properties that hold whatever the numbers."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from tests.helpers import fake_returns, fresh
from tests.learning.helpers import (
    ALGORITHMS_OF_EVERY_KIND,
    COMBINATIONS,
    ONE_STEP,
    SIZE,
    assert_same,
    combined,
    gradients,
    make_learner,
    off_policy,
    rows_of,
    same_weights,
    weights,
    with_chunk,
)
from vla_rl import functional as F
from vla_rl.algorithms import ppo
from vla_rl.learning.policy_gradient import PolicyGradient
from vla_rl.types import RolloutBatch


@pytest.mark.parametrize(("level", "mode"), COMBINATIONS)
def test_the_first_step_of_an_update_is_the_plain_policy_gradient(batch, level, mode):
    learner = make_learner()
    algorithm = combined(level, mode)
    rows = rows_of(batch)
    mask, old = torch.from_numpy(batch.mask), torch.from_numpy(batch.chunk.logprob)
    _, units = F.at_level(old, mask, batch.horizon, level)
    weight = F.unit_weights(units, mode, 20 * units.shape[2] / 3)  # 20 steps are the horizon
    if level == "trajectory":  # every unit bears the gradient of the whole episode
        weight = weight * units.flatten(1).sum(1)[:, None, None]
    advantage = algorithm.advantage(batch, torch.from_numpy(batch.reward))
    at = torch.from_numpy(rows[:, 0]), torch.from_numpy(rows[:, 1])
    logprob = learner.evaluate(batch, rows).logprob
    logprob, _ = F.at_level(logprob, mask[at], batch.horizon, level)
    loss = -(weight[at] * advantage[at[0]][:, None] * logprob).sum()
    head = learner.policy.groups()["head"]
    expected = torch.autograd.grad(loss, head, allow_unused=True, materialize_grads=True)
    (found,) = gradients(algorithm, batch, learner)
    assert_same(found, torch.cat([g.flatten() for g in expected]), 1e-4)


def test_an_algorithm_without_credit_cannot_be_made():
    class Unfinished(PolicyGradient):
        pass

    with pytest.raises(TypeError, match="credit"):
        Unfinished()


# -------------------------------------------------------------------------------- order and padding


@pytest.mark.parametrize("name", ALGORITHMS_OF_EVERY_KIND)
def test_order_of_groups_and_members_does_not_matter(groups, batch, name):
    algorithm = ALGORITHMS_OF_EVERY_KIND[name]
    turned = RolloutBatch.pack([group[::-1] for group in [groups[2], groups[0], groups[1]]])
    (expected,) = gradients(algorithm, batch)
    (found,) = gradients(algorithm, turned)
    assert_same(found, expected)


def more_padding(batch, extra, junk):
    """Longer rows; where nothing happened stands junk, but for rewards and what says so."""

    def longer(array, fill):
        width = [(0, 0), (0, extra)] + [(0, 0)] * (array.ndim - 2)
        return np.pad(array, width, constant_values=fill)

    def all_longer(arrays):
        named = {f.name: getattr(arrays, f.name) for f in fields(arrays)}
        return type(arrays)(**{name: longer(array, junk) for name, array in named.items()})

    return replace(
        batch,
        obs=all_longer(batch.obs),
        chunk=all_longer(batch.chunk),
        mask=longer(batch.mask, False),
        valid=longer(batch.valid, False),
        reward=longer(batch.reward, 0),
    )


@pytest.mark.parametrize("name", [*ALGORITHMS_OF_EVERY_KIND, "ppo"])
def test_padding_does_not_matter(batch, name):
    settings = {**ONE_STEP, "group_size": 1, "critic_warmup": 0}
    algorithm = ALGORITHMS_OF_EVERY_KIND.get(name) or ppo.Algorithm(**settings)
    trains = algorithm.trains
    (expected,) = gradients(algorithm, batch, make_learner(trains))
    (found,) = gradients(algorithm, more_padding(batch, 3, junk=7), make_learner(trains))
    assert_same(found, expected, 1e-6)


# -------------------------------------------------------------------------- groups without contrast


def test_equal_returns_give_a_gradient_of_exactly_zero(groups):
    equal = RolloutBatch.pack([fake_returns(g, [0.1] * SIZE) for g in groups])
    for name, algorithm in ALGORITHMS_OF_EVERY_KIND.items():
        if algorithm.adv_estimator in ("opo", "grpo_process"):
            continue  # neither says so exactly; such groups are never kept
        (found,) = gradients(algorithm, equal)
        assert not found.any(), name


def test_a_group_without_contrast_beside_others_pulls_nowhere(groups):
    flat = [fake_returns(groups[0], [1.0] * SIZE), *groups[1:]]
    batch = RolloutBatch.pack(flat)
    rows = torch.from_numpy(batch.group == 0)
    algorithm = combined("token", "seq-mean-token-sum-norm")
    advantage = algorithm.advantage(batch, torch.from_numpy(batch.reward))
    assert not advantage[rows].any()
    (found,) = gradients(algorithm, batch)
    assert torch.isfinite(found).all()
    (without,) = gradients(algorithm, RolloutBatch.pack(flat[1:]))
    assert_same(found * 3, without * 2)  # it counts in the number of episodes only


# ---------------------------------------------------------------------------- what was not executed


@pytest.mark.parametrize(("level", "mode"), COMBINATIONS)
def test_units_after_the_end_do_not_matter(batch, level, mode):
    raw, logprob = batch.chunk.raw.copy(), batch.chunk.logprob.copy()
    raw[~batch.mask] = 3.0
    logprob[~batch.mask] = -50.0
    assert (raw != batch.chunk.raw)[batch.valid].any()
    algorithm = combined(level, mode)
    (expected,) = gradients(algorithm, batch)
    (found,) = gradients(algorithm, with_chunk(batch, raw=raw, logprob=logprob))
    assert_same(found, expected, 1e-6)


def test_masked_episodes_do_not_matter(groups, batch):
    """A filter leaves the others as if they had been the whole batch."""
    rows = batch.group != 1
    algorithm = combined("token", "seq-mean-token-mean", adv_estimator="rloo")
    learner = make_learner()
    learner_of_part = make_learner()
    (expected,) = gradients(algorithm, RolloutBatch.pack([groups[0], groups[2]]), learner_of_part)
    (found,) = gradients(algorithm, batch.only(rows), learner)
    assert_same(found, expected)


def test_nothing_left_changes_nothing(batch):
    learner = make_learner()
    before = weights(learner)
    algorithm = combined("token", "token-mean")
    nobody = batch.only(np.zeros(len(batch), bool))
    log = algorithm.update(learner, nobody, fresh(algorithm), np.random.default_rng(0))
    assert same_weights(before, weights(learner))
    assert learner.version == 0
    assert set(log) == {"train/return_mean", "train/return_std"}


# --------------------------------------------------------------------------------- passes and stops


def test_passes_end_when_the_policy_has_moved_too_far(batch):
    def steps(target_kl):
        algorithm = combined("token", "token-mean", ppo_epochs=5, target_kl=target_kl)
        log = algorithm.update(
            make_learner(lr=1e-3), batch, fresh(algorithm), np.random.default_rng(0)
        )
        return log["actor/updates"], log["actor/ppo_kl"]

    assert steps(0.0)[0] == 5
    assert steps(1e9)[0] == 5
    stopped, kl = steps(1e-6)
    assert stopped == 2  # the first pass measures the policy that acted: no divergence yet
    assert kl > 1e-6


@pytest.mark.parametrize("level", F.RATIO_LEVELS)
def test_the_measured_divergence_is_per_action_whatever_the_level(batch, level):
    """In the first epoch over the whole batch it does not depend on the surrogate at all."""
    algorithm = combined(level, "seq-mean-token-mean")
    log = algorithm.update(
        make_learner(), off_policy(batch), fresh(algorithm), np.random.default_rng(0)
    )
    acted = torch.from_numpy(off_policy(batch).chunk.logprob)
    mask = torch.from_numpy(batch.mask)
    new, executed = F.at_level(torch.from_numpy(batch.chunk.logprob), mask, 3, "action")
    old, _ = F.at_level(acted, mask, 3, "action")
    expected = F.divergence(old, new, executed, "k3")[executed].mean()
    assert log["actor/ppo_kl"] == pytest.approx(float(expected), rel=1e-3)


def test_ratio_statistics_by_hand(batch):
    acted = off_policy(batch)
    algorithm = combined("token", "token-mean")
    log = algorithm.update(make_learner(), acted, fresh(algorithm), np.random.default_rng(0))
    ratio = np.exp(batch.chunk.logprob - acted.chunk.logprob)[batch.mask]
    assert log["actor/ratio_mean"] == pytest.approx(ratio.mean(), rel=1e-4)
    assert log["actor/ratio_std"] == pytest.approx(ratio.std(), rel=1e-3)
    assert log["actor/updates"] == 1
    assert 0 < log["actor/pg_clipfrac"] < np.mean(np.abs(ratio - 1) > 0.2) + 1e-6


# ------------------------------------------------------------------------------------------ entropy


def test_an_entropy_bonus_widens_the_policy(groups):
    equal = RolloutBatch.pack([fake_returns(g, [0.0] * SIZE) for g in groups])
    learner = make_learner(lr=1e-2)
    before = learner.policy.head.log_std.detach().clone()
    algorithm = combined("token", "token-mean", entropy_coef=0.1, ppo_epochs=5)
    algorithm.update(learner, equal, fresh(algorithm), np.random.default_rng(0))
    assert (learner.policy.head.log_std > before).all()


def test_what_was_not_executed_may_have_no_entropy_at_all(batch, monkeypatch):
    learner = make_learner()
    evaluate = learner.evaluate

    def with_holes(of, rows):
        scores = evaluate(of, rows)
        executed = torch.from_numpy(of.mask[rows[:, 0], rows[:, 1]])
        hole = torch.full_like(scores.entropy, torch.nan)
        return replace(scores, entropy=torch.where(executed, scores.entropy, hole))

    monkeypatch.setattr(learner, "evaluate", with_holes)
    algorithm = combined("token", "token-mean", entropy_coef=0.1)
    log = algorithm.update(learner, batch, fresh(algorithm), np.random.default_rng(0))
    assert np.isfinite(log["actor/entropy"])
    assert learner.skipped == 0
