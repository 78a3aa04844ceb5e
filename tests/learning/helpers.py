"""Learners, uneven batches and gradients that the tests of updates build on."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch

from tests.helpers import fake_returns, fresh, make_policy, play_groups
from vla_rl import functional as F
from vla_rl.learning.distributed import ALONE
from vla_rl.learning.group_relative import GroupRelative
from vla_rl.learning.learner import Learner, LearnerConfig

SIZE = 4  # of a group
ONE_STEP = {"group_size": SIZE, "ppo_epochs": 1, "ppo_mini_batch_size": 0, "target_kl": 0.0}
WITHOUT_KL = {"kl_coef": 0.0, "kl_placement": "none"}


def make_learner(trains=("head",), lr=1e-4, ranks=ALONE, max_grad_norm=1e9, change=None) -> Learner:
    """A policy that is the same every time, and what it was before ``change`` as reference."""
    policy = make_policy()
    config = LearnerConfig(lr=lr, std_lr=lr, max_grad_norm=max_grad_norm, warmup_steps=0)
    learner = Learner(policy, config, trains, ranks=ranks)
    learner.reference = copy.deepcopy(policy).requires_grad_(False)
    if change is not None:
        with torch.no_grad():
            change(policy)
    return learner


def shortened(t, decisions, executed):
    """The beginning of an episode, of whose last chunk only some actions were executed."""
    done = t.executed[:decisions].copy()
    done[-1, executed:] = False
    return replace(
        t,
        obs=t.obs[:decisions],
        chunk=t.chunk[:decisions],
        executed=done,
        env_reward=t.env_reward[:decisions],
        reward=t.reward[:decisions],
        progress=t.progress[: decisions + 1],
    )


def uneven_groups(learner, groups=3, size=SIZE):
    """Episodes of 1 to 6 decisions that end inside a chunk, with contrast in every group."""
    played = play_groups(learner.policy, groups, size)
    cut = [
        [shortened(t, 1 + (5 * i + 2 * g) % 6, 1 + (i + g) % 3) for i, t in enumerate(group)]
        for g, group in enumerate(played)
    ]
    returns = [float(i % 2) + 0.1 * i for i in range(size)]
    return [fake_returns(group, returns) for group in cut]


def with_chunk(batch, **arrays):
    return replace(batch, chunk=replace(batch.chunk, **arrays))


def off_policy(batch, spread=0.1):
    """As if other weights had acted: ratios differ from 1."""
    noise = np.random.default_rng(0).normal(0, spread, batch.chunk.logprob.shape)
    return with_chunk(batch, logprob=(batch.chunk.logprob + noise).astype(np.float32))


def gradients(algorithm, batch, learner=None, seed=0):
    """Of all trained parameters as one vector, before every step of an update."""
    learner = learner or make_learner()
    trained = learner.policy.groups().values()
    parameters = [p for group in trained for p in group if p.requires_grad]
    caught = []

    def catch(*_):
        each = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        caught.append(torch.cat([g.flatten() for g in each]).clone())

    handle = learner.optimizer.register_step_pre_hook(catch)
    algorithm.update(learner, batch, fresh(algorithm), np.random.default_rng(seed))
    handle.remove()
    return caught


def assert_same(found, expected, tolerance=1e-5):
    assert float(expected.norm()) > 0
    assert float((found - expected).norm() / expected.norm()) < tolerance


def weights(learner):
    return {name: tensor.clone() for name, tensor in learner.policy.state_dict().items()}


def same_weights(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


def rows_of(batch):
    return np.argwhere(batch.valid)


# Combinations that an algorithm may be made of, with a clip range that fits.
COMBINATIONS = [
    (level, mode)
    for level in F.RATIO_LEVELS
    for mode in F.AGGREGATIONS
    if level not in F.EPISODE_LEVELS or mode in ("seq-mean-token-mean", "seq-mean-token-sum")
]


def combined(level, mode, **settings) -> GroupRelative:
    narrow = 0.05 if level.startswith("sequence") else 0.2
    return GroupRelative(
        **{
            **ONE_STEP,
            "importance_sampling_level": level,
            "loss_agg_mode": mode,
            "clip_ratio_low": narrow,
            "clip_ratio_high": narrow,
            **settings,
        }
    )


ALGORITHMS_OF_EVERY_KIND = {
    "token": combined("token", "token-mean"),
    "chunk": combined("chunk", "seq-mean-token-sum-norm"),
    "sequence": combined("sequence", "seq-mean-token-mean"),
    "gmpo": combined("token", "seq-mean-token-mean", loss_type="gmpo"),
    "process": combined("action", "seq-mean-token-mean", adv_estimator="grpo_process"),
    "whitened": combined("action", "token-mean", adv_estimator="reinforce_plus_plus"),
    "opo": combined("token", "seq-mean-token-sum", adv_estimator="opo"),
}
