"""A divergence from the reference policy, in the loss or in the reward."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers import fake_returns, fresh, play_groups
from tests.learning.helpers import (
    SIZE,
    assert_same,
    combined,
    gradients,
    make_learner,
    off_policy,
    rows_of,
)
from vla_rl.algorithms import grpo
from vla_rl.episode_end import EpisodeEnd
from vla_rl.train import Loop
from vla_rl.train_config import TrainConfig
from vla_rl.types import RolloutBatch


def distance(learner, batch):
    """Mean squared difference of log-probabilities from the reference."""
    mask = torch.from_numpy(batch.mask)
    now = learner.logprobs(batch, learner.policy)
    return float((now - learner.logprobs(batch, learner.reference))[mask].square().mean())


@pytest.mark.parametrize("estimator", ["k2", "k3"])
@pytest.mark.parametrize("unbiased", [False, True])
def test_a_kl_in_the_loss_keeps_the_policy_near_the_reference(batch, estimator, unbiased):
    def moved(**settings):
        learner = make_learner(lr=1e-3)
        algorithm = combined("token", "seq-mean-token-mean", ppo_epochs=30, **settings)
        log = algorithm.update(learner, batch, fresh(algorithm), np.random.default_rng(0))
        assert ("actor/kl_loss" in log) == bool(settings)
        return distance(learner, batch)

    kl = {"kl_coef": 10.0, "kl_placement": "loss", "kl_estimator": estimator}
    assert moved(**kl, kl_unbiased=unbiased) < 0.3 * moved()


def drifted(policy):
    policy.head.trunk[-1].bias += 0.3


def drifted_little(policy):
    policy.head.trunk[-1].bias += 0.1


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_a_kl_in_the_loss_leads_back_to_the_reference(estimator):
    learner = make_learner(lr=3e-3, change=drifted)
    groups = [fake_returns(g, [0.0] * SIZE) for g in play_groups(learner.policy, 3, SIZE)]
    batch = RolloutBatch.pack(groups)
    before = distance(learner, batch)
    kl = {"kl_coef": 1.0, "kl_placement": "loss", "kl_estimator": estimator}
    algorithm = combined("token", "seq-mean-token-mean", ppo_epochs=20, **kl)
    algorithm.update(learner, batch, fresh(algorithm), np.random.default_rng(0))
    assert distance(learner, batch) < 0.5 * before


@pytest.mark.parametrize("unbiased", [False, True])
def test_the_gradient_of_a_kl_in_the_loss(groups, unbiased):
    """By itself, as equal returns leave nothing else; weighted with the ratio or not."""
    batch = off_policy(RolloutBatch.pack([fake_returns(g, [0.0] * SIZE) for g in groups]))
    learner = make_learner(change=drifted_little)  # k3 is cut at 10
    rows, mask = rows_of(batch), torch.from_numpy(batch.mask)
    at = torch.from_numpy(rows[:, 0]), torch.from_numpy(rows[:, 1])
    new = learner.evaluate(batch, rows).logprob
    k1 = new - learner.logprobs(batch, learner.reference)[at]
    k3 = (-k1).exp() + k1 - 1
    ratio = (new - torch.from_numpy(batch.chunk.logprob)[at]).exp()
    loss = 0.5 * (k3 * ratio if unbiased else k3)[mask[at]].mean()
    head = learner.policy.groups()["head"]
    expected = torch.autograd.grad(loss, head, allow_unused=True, materialize_grads=True)
    kl = {"kl_coef": 0.5, "kl_placement": "loss", "kl_unbiased": unbiased}
    (found,) = gradients(combined("token", "token-mean", **kl), batch, learner)
    assert_same(found, torch.cat([g.flatten() for g in expected]))


def test_a_kl_in_the_reward_leads_back_to_the_reference():
    def after(kl_coef):
        learner = make_learner(lr=1e-3, change=drifted)
        groups = play_groups(learner.policy, 6, 16)
        groups = [fake_returns(g, [float(i % 2) for i in range(16)]) for g in groups]
        batch = RolloutBatch.pack(groups)
        before = distance(learner, batch)
        algorithm = combined(
            *("token", "seq-mean-token-mean"),
            group_size=16,
            ppo_epochs=10,
            kl_coef=kl_coef,
            kl_placement="reward" if kl_coef else "none",
        )
        log = algorithm.update(learner, batch, fresh(algorithm), np.random.default_rng(0))
        if kl_coef:
            mask = torch.from_numpy(batch.mask)
            acted = torch.from_numpy(batch.chunk.logprob)
            k1 = (acted - learner.logprobs(batch, learner.reference))[mask].sum() / len(batch)
            assert log["train/kl_reward"] == pytest.approx(float(k1), rel=1e-3)
        return distance(learner, batch) / before

    assert after(1.0) < 0.8
    assert after(1.0) < 0.8 * after(0.0)


def test_a_kl_needs_a_reference(batch):
    algorithm = grpo.Algorithm(group_size=SIZE)
    learner = make_learner()
    learner.reference = None
    with pytest.raises(ValueError, match=r"kl_coef 0.04 needs a reference policy"):
        algorithm.update(learner, batch, fresh(algorithm), np.random.default_rng(0))
    with pytest.raises(ValueError, match="needs a reference policy for its KL"):
        Loop(None, learner, algorithm, None, [], EpisodeEnd(), [], TrainConfig(), 0)  # type: ignore[arg-type]
