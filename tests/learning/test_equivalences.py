"""Algorithms that are the same where their difference has nothing to act on."""

from __future__ import annotations

import torch

from tests.helpers import fresh
from tests.learning.helpers import (
    ONE_STEP,
    SIZE,
    WITHOUT_KL,
    assert_same,
    combined,
    gradients,
    off_policy,
)
from vla_rl import functional as F
from vla_rl.algorithms import dr_grpo, gfpo, grpo, gspo, rloo


def test_gspo_and_grpo_differ_only_after_the_first_step(batch):
    settings = {**ONE_STEP, "ppo_epochs": 2}
    token = gradients(grpo.Algorithm(**settings, **WITHOUT_KL), batch)
    sequence = gradients(gspo.Algorithm(**settings), batch)
    assert_same(sequence[0], token[0], 1e-4)
    assert float((sequence[1] - token[1]).norm() / token[1].norm()) > 1e-4


def test_gspo_token_with_one_advantage_per_episode_is_gspo(batch):
    acted = off_policy(batch)
    mode = "seq-mean-token-mean"
    (whole,) = gradients(combined("sequence", mode), acted)
    (units,) = gradients(combined("sequence_token", mode), acted)
    assert_same(units, whole)


def test_gfpo_that_keeps_everybody_is_grpo(batch):
    settings = {**ONE_STEP, **WITHOUT_KL, "entropy_coef": 0.0, "clip_ratio_c": 0.0}
    filtered = gfpo.Algorithm(**settings, num_remains_in_group=2)
    plain = grpo.Algorithm(**ONE_STEP, **WITHOUT_KL)
    (some,) = gradients(filtered, batch)
    object.__setattr__(filtered, "num_remains_in_group", SIZE)  # which it would refuse
    (found,) = gradients(filtered, batch)
    (expected,) = gradients(plain, batch)
    # GFPO divides by the population standard deviation, GRPO by that of the sample
    assert_same(found, expected * (SIZE / (SIZE - 1)) ** 0.5)
    assert float((some - found).norm() / found.norm()) > 0.1
    reward = torch.from_numpy(batch.reward)
    group = torch.from_numpy(batch.group)
    population = F.group_relative(reward.sum(1), group, ddof=0)
    credit = filtered.credit(batch, reward, fresh(filtered))
    torch.testing.assert_close(credit.advantage, population)


def test_leave_one_out_is_a_multiple_of_the_centred_return(batch):
    reward = torch.from_numpy(batch.reward)
    left_out = rloo.Algorithm(group_size=SIZE).advantage(batch, reward)
    centred = dr_grpo.Algorithm(group_size=SIZE).advantage(batch, reward)
    torch.testing.assert_close(left_out, SIZE / (SIZE - 1) * centred)
