"""The estimators of group-relative algorithms, and the density that each of them needs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.helpers import fresh, make_policy
from tests.learning.helpers import SIZE, make_learner, uneven_groups
from vla_rl import functional as F
from vla_rl.algorithms import gfpo, gspo, loop, ppo
from vla_rl.learning.group_relative import GroupRelative
from vla_rl.types import RolloutBatch


def test_reinforce_plus_plus_credits_what_came_after(groups):
    """Two rewards on the way: a decision is no better for what was paid before it."""

    def paid(t):
        reward = np.zeros(t.decisions, np.float32)
        reward[0] = 5.0
        reward[-1] += 1.0
        return replace(t, reward=reward)

    algorithm = GroupRelative(adv_estimator="reinforce_plus_plus", group_size=1)
    batch = RolloutBatch.pack([[paid(t)] for group in groups for t in group])
    reward = torch.from_numpy(batch.reward)
    advantage = algorithm.advantage(batch, reward)
    weight = torch.from_numpy(batch.mask).sum(2).float()
    torch.testing.assert_close(advantage, F.whiten(F.returns_to_go(reward), weight))
    later = torch.from_numpy(batch.valid[:, 1:])
    assert len(advantage[:, 1:][later].unique()) == 1  # all have the last 1 ahead of them
    assert algorithm.credits_decisions


@pytest.mark.parametrize(
    ("algorithm", "density"),
    [
        (GroupRelative(), "marginal"),
        (GroupRelative(importance_sampling_level="action"), "marginal"),
        (GroupRelative(importance_sampling_level="chunk"), "chunk"),
        (GroupRelative(adv_estimator="grpo_process"), "decision"),
        (GroupRelative(adv_estimator="reinforce_plus_plus"), "decision"),
        (gspo.Algorithm(), "decision"),
        (GroupRelative(loss_type="vespo"), "decision"),
        (GroupRelative(loss_type="gmpo", clip_ratio_low=0.4, clip_ratio_high=0.4), "decision"),
        (ppo.Algorithm(), "decision"),
    ],
)
def test_the_simplest_density_that_is_right_is_taken(algorithm, density):
    assert algorithm.density_for(make_policy()) == density
    assert algorithm.density_for(make_policy(density="episode")) == "episode"
    assert algorithm.density_for(make_policy(rho=0.0, episode_share=0.0)) == "marginal"
    fixed = make_policy(density="marginal")
    if density == "marginal":
        assert algorithm.density_for(fixed) == "marginal"
    else:
        with pytest.raises(ValueError, match="does not fit density 'marginal'"):
            algorithm.density_for(fixed)


@pytest.mark.parametrize("algorithm", [ppo.Algorithm(), loop.Algorithm()])
def test_one_unlikely_action_does_not_take_the_whole_gradient(algorithm):
    """At a log-ratio of 15 with a negative advantage a plain clip lets everything through."""
    logprob = torch.tensor([[15.0, 0.0]], requires_grad=True)
    mask, episode = torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, dtype=torch.long)
    ratio = F.log_ratio(logprob, torch.zeros(1, 2), mask, "action", episode)
    clips = (algorithm.clip_ratio_low, algorithm.clip_ratio_high, algorithm.clip_ratio_c)
    advantage = torch.tensor([[-1.0]])
    out = F.surrogate_loss("ppo_clip", logprob, ratio, advantage, mask, episode, *clips)
    (gradient,) = torch.autograd.grad(out.loss.sum(), logprob)
    assert gradient.tolist() == [[0.0, 1.0]]
    assert out.clipped.tolist() == [[True, False]]


def test_gfpo_scales_as_it_is_told():
    learner = make_learner()
    batch = RolloutBatch.pack(uneven_groups(learner, groups=24))
    reward = torch.from_numpy(batch.reward)
    settings = {"group_size": SIZE, "num_remains_in_group": 2, "retention": "full_group"}
    unscaled, usual = gfpo.Algorithm(**settings, scale_rewards="none"), gfpo.Algorithm(**settings)
    plain = unscaled.credit(batch, reward, fresh(unscaled))
    scaled = usual.credit(batch, reward, fresh(usual))
    centred = F.group_relative(reward.sum(1), torch.from_numpy(batch.group), "none")
    kept = plain.advantage != 0
    torch.testing.assert_close(plain.advantage[kept], centred[kept])
    assert not torch.allclose(plain.advantage, scaled.advantage)
