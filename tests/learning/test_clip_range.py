"""Clip ranges that are measured instead of set."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.helpers import fresh
from tests.learning.helpers import ONE_STEP, SIZE, make_learner, uneven_groups
from vla_rl import functional as F
from vla_rl.algorithms import gspo
from vla_rl.types import RolloutBatch


def episode_ratios(monkeypatch):
    """A list that grows by the distances from 1 of the ratios of every minibatch."""
    seen, take = [], F.log_ratio

    def spy(logprob, old, mask, *rest):
        found = take(logprob, old, mask, *rest)
        seen.append((found.detach().exp() - 1).abs()[mask].numpy())
        return found

    monkeypatch.setattr(F, "log_ratio", spy)
    return seen


def test_the_clip_range_of_gspo_is_measured_so_that_it_clips_15_percent(monkeypatch):
    learner = make_learner(lr=3e-4)
    seen = episode_ratios(monkeypatch)
    settings = {"group_size": SIZE, "ppo_mini_batch_size": 64, "target_kl": 0.0}
    algorithm = gspo.Algorithm(**settings, ppo_epochs=1)
    state = fresh(algorithm)
    assert algorithm.clip_range(state) == (float("inf"), float("inf"))
    rng = np.random.default_rng(0)
    batch = RolloutBatch.pack(uneven_groups(learner, groups=24))
    log = algorithm.update(learner, batch, state, rng)
    low, high = algorithm.clip_range(state)
    assert low == high == log["actor/clip_range"]
    assert len(seen) > 3
    assert not seen[0].any()  # before the first step all ratios are 1
    # episodes are few in a minibatch, so the quantile falls on one of them or between two
    assert low == pytest.approx(np.quantile(seen[1], 0.85))
    assert 0.05 < np.mean(seen[1] > low) < 0.25
    seen.clear()
    again = RolloutBatch.pack(uneven_groups(learner, groups=24))
    log = algorithm.update(learner, again, state, rng)
    second = np.quantile(seen[1], 0.85)
    assert algorithm.clip_range(state)[0] == pytest.approx(
        0.7 * low + 0.3 * second
    )  # a running mean
    assert log["actor/pg_clipfrac"] > 0


def test_a_clip_range_measured_during_the_warm_up_is_that_of_the_full_rate(batch):
    """Of steps a tenth and a whole rate long from the same weights, the ratios move by as much."""
    found = []
    for warmup_steps in (0, 10):
        learner = make_learner(lr=1e-5)
        learner.config = replace(learner.config, warmup_steps=warmup_steps)
        algorithm = gspo.Algorithm(group_size=SIZE, ppo_mini_batch_size=10, ppo_epochs=1)
        state = fresh(algorithm)
        algorithm.update(learner, batch, state, np.random.default_rng(0))
        found.append(state.clip_range)
    assert found[1] == pytest.approx(found[0], rel=0.05)


def test_the_measured_clip_range_is_state_and_no_setting(batch):
    algorithm = gspo.Algorithm(group_size=SIZE, ppo_mini_batch_size=10)
    state = fresh(algorithm)
    assert state.state_dict() == {"longest": 20, "clip_range": None}
    algorithm.update(make_learner(), batch, state, np.random.default_rng(0))
    resumed = fresh(algorithm)
    assert resumed.clip_range is None  # another run begins anew
    resumed.load_state_dict(json.loads(json.dumps(state.state_dict())))
    assert algorithm.clip_range(resumed) == algorithm.clip_range(state)
    assert np.isfinite(algorithm.clip_range(resumed)).all()


def test_a_clip_range_is_not_measured_before_a_step_was_taken(batch):
    """One step over the whole batch: its ratios are all 1, so nothing can be said yet."""
    algorithm = gspo.Algorithm(**ONE_STEP)
    state = fresh(algorithm)
    log = algorithm.update(make_learner(), batch, state, np.random.default_rng(0))
    assert "actor/clip_range" not in log
    assert algorithm.clip_range(state) == (float("inf"), float("inf"))
    again = gspo.Algorithm(**{**ONE_STEP, "ppo_epochs": 3})
    log = again.update(make_learner(lr=1e-3), batch, fresh(again), np.random.default_rng(0))
    assert 0 < log["actor/clip_range"] < 0.1
