"""The update is the same however a batch is split: minibatches, micro-batches, processes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.learning.helpers import (
    COMBINATIONS,
    ONE_STEP,
    SIZE,
    assert_same,
    combined,
    gradients,
    make_learner,
    off_policy,
    rows_of,
)
from vla_rl import functional as F
from vla_rl.algorithms import ppo
from vla_rl.learning.distributed import Ranks


def assert_micro_batches_add_up(algorithm, batch):
    whole = None
    for size in (0, 7, 1000):
        split = replace(algorithm, ppo_micro_batch_size=size)
        (found,) = gradients(split, batch, make_learner(algorithm.trains))
        whole = found if whole is None else whole
        assert_same(found, whole)


@pytest.mark.parametrize(("level", "mode"), COMBINATIONS)
def test_micro_batches_add_up_at_every_level_and_aggregation(batch, level, mode):
    assert_micro_batches_add_up(combined(level, mode), off_policy(batch))


@pytest.mark.parametrize("loss_type", F.LOSS_TYPES)
def test_micro_batches_add_up_for_every_surrogate(batch, loss_type):
    algorithm = combined("action", "seq-mean-token-mean", loss_type=loss_type)
    assert_micro_batches_add_up(algorithm, off_policy(batch))


def test_micro_batches_add_up_with_kl_entropy_correction_and_critic(batch):
    extras = {"kl_coef": 0.1, "kl_placement": "loss", "entropy_coef": 0.01}
    algorithm = combined("token", "token-mean", rollout_correction="token", **extras)
    assert_micro_batches_add_up(algorithm, off_policy(batch))
    critic = ppo.Algorithm(**{**ONE_STEP, "group_size": 1, "critic_warmup": 0, **extras})
    assert_micro_batches_add_up(critic, off_policy(batch))


def test_micro_batches_are_not_larger_than_asked_for(batch):
    learner, rows = make_learner(), rows_of(batch)
    sizes = [len(part) for part in learner.parts(batch, rows, 7)]
    assert max(sizes) <= 7
    assert sum(sizes) == len(rows)
    (whole,) = learner.parts(batch, rows, 0)
    np.testing.assert_array_equal(whole, rows)


@pytest.mark.parametrize(("level", "mode"), COMBINATIONS)
def test_minibatches_share_the_gradient_of_the_batch(batch, level, mode):
    """Each has the size of the whole one; weighted by their decisions they make it up."""
    algorithm = combined(level, mode)
    (whole,) = gradients(algorithm, batch)
    split = replace(algorithm, ppo_mini_batch_size=10)
    learner = make_learner(lr=1e-12)  # so that every one meets the same weights
    found = gradients(split, batch, learner)
    together = "episode" if level in F.EPISODE_LEVELS else "decision"
    parts = list(learner.minibatches(batch, 10, np.random.default_rng(0), together))
    assert len(found) == len(parts) > 2
    shares = [len(part) / batch.valid.sum() for part in parts]
    assert_same(sum(share * g for share, g in zip(shares, found, strict=True)), whole, 1e-4)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("size", [0, 7, 1000])
@pytest.mark.parametrize("together", ["decision", "episode", "group"])
def test_ranks_share_every_decision(batch, world, size, together):
    shares = []
    for rank in range(world):
        own = replace(batch, here=batch.group % world == rank)  # a group is played by one rank
        learner = make_learner(ranks=Ranks(rank, world))
        shares.append(learner.parts(own, rows_of(own), size, together))
    parts = [part for share in shares for part in share]
    seen = np.concatenate(parts)
    assert sorted(map(tuple, seen)) == sorted(map(tuple, rows_of(batch)))
    assert all(share for share in shares), "a rank has nothing to do"
    owner = {"decision": None, "episode": np.arange(len(batch)), "group": batch.group}[together]
    if owner is not None:
        owners = [set(owner[part[:, 0]].tolist()) for part in parts]
        assert sum(map(len, owners)) == len(set.union(*owners)), "one was cut"


def test_minibatches_of_whole_groups(batch):
    """A pair of episodes of one start is never parted, in minibatches and their parts."""
    learner = make_learner()
    parts = list(learner.minibatches(batch, 12, np.random.default_rng(0), together="group"))
    assert len(parts) > 1
    assert sorted(map(tuple, np.concatenate(parts))) == sorted(map(tuple, rows_of(batch)))
    for rows in parts:
        members = batch.group[np.unique(rows[:, 0])]
        assert all(np.sum(members == group) == SIZE for group in members)
        smaller = learner.parts(batch, rows, 10, together="group")
        found = [set(batch.group[part[:, 0]].tolist()) for part in smaller]
        assert sum(map(len, found)) == len(set.union(*found))


def test_minibatches_of_whole_episodes(batch):
    learner = make_learner()
    parts = list(learner.minibatches(batch, 10, np.random.default_rng(0), together="episode"))
    assert len(parts) > 2
    assert sorted(map(tuple, np.concatenate(parts))) == sorted(map(tuple, rows_of(batch)))
    owners = [set(part[:, 0].tolist()) for part in parts]
    assert sum(map(len, owners)) == len(batch)
    other = list(learner.minibatches(batch, 10, np.random.default_rng(1), together="episode"))
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(parts, other, strict=False))
