"""Weights for actions that were sampled by slightly other probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers import fake_returns, fresh
from tests.learning.helpers import (
    SIZE,
    assert_same,
    combined,
    gradients,
    make_learner,
    same_weights,
    weights,
    with_chunk,
)
from vla_rl.algorithms import gfpo
from vla_rl.types import RolloutBatch


def test_a_correction_changes_nothing_where_acting_and_learning_agree(batch):
    results = []
    for correction in ("none", "token"):
        learner = make_learner(lr=1e-3)
        agreeing = learner.logprobs(batch, learner.policy).numpy()
        algorithm = combined("action", "token-mean", ppo_epochs=3, rollout_correction=correction)
        algorithm.update(
            learner, with_chunk(batch, logprob=agreeing), fresh(algorithm), np.random.default_rng(0)
        )
        results.append(weights(learner))
    assert same_weights(*results)


@pytest.mark.parametrize(
    ("shift", "factor"), [(-0.3, np.exp(0.3)), (-5.0, 2.0), (0.5, np.exp(-0.5))]
)
def test_a_correction_weights_units_with_the_truncated_ratio(batch, shift, factor):
    learner = make_learner()
    agreeing = learner.logprobs(batch, learner.policy).numpy()
    algorithm = combined("token", "token-mean", rollout_correction="token")
    (expected,) = gradients(algorithm, with_chunk(batch, logprob=agreeing))
    other = with_chunk(batch, logprob=agreeing + np.float32(shift))
    (found,) = gradients(algorithm, other)
    assert_same(found, float(factor) * expected)


def test_a_correction_meets_a_batch_of_which_nothing_is_left(groups):
    settings = {"num_remains_in_group": 2, "rollout_correction": "token", "group_size": SIZE}
    equal = RolloutBatch.pack([fake_returns(g, [1.0] * SIZE) for g in groups])
    learner = make_learner()
    algorithm = gfpo.Algorithm(**settings)
    log = algorithm.update(learner, equal, fresh(algorithm), np.random.default_rng(0))
    assert log["gfpo/frac_groups_dead"] == 1
