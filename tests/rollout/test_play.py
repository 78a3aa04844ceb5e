"""What is played, and what is recorded of it, on the stand-in suite."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers import make_policy
from tests.rollout.helpers import assert_same, play_here, specs_of
from vla_rl.learning.learner import Learner, LearnerConfig
from vla_rl.rollout.collector import episode_keys
from vla_rl.types import RolloutBatch


def test_a_group_starts_alike_and_then_differs(reference):
    _, _, _, played = reference
    group = played[:4]
    assert len({t.spec for t in group}) == 1
    for member in group[1:]:
        np.testing.assert_array_equal(member.obs.images[0], group[0].obs.images[0])
        np.testing.assert_array_equal(member.obs.state[0], group[0].obs.state[0])
        assert not np.array_equal(member.chunk.raw[0], group[0].chunk.raw[0])


def test_an_episode_does_not_depend_on_who_else_is_played(reference):
    policy, specs, keys, played = reference
    alone = play_here(policy, specs[5:6], keys[5:6])
    assert_same(alone, played[5:6])


def test_episodes_end_inside_chunks_and_the_rest_is_masked(reference):
    _, _, _, played = reference
    for t in played:
        assert t.executed[:-1].all()  # only the last chunk can be cut
        assert t.steps == 20 if t.truncated else t.steps <= 20
        assert t.success != t.truncated
        assert len(t.progress) == t.decisions + 1
    cut = [t for t in played if not t.executed[-1].all()]
    assert cut  # 20 steps are no multiple of 3
    batch = RolloutBatch.pack([played[i : i + 4] for i in range(0, len(played), 4)])
    for row, t in enumerate(played):
        units = batch.mask[row].reshape(-1, 3, batch.mask.shape[2] // 3)
        assert units.all(axis=2).sum() == t.steps
        assert batch.valid[row].sum() == t.decisions


def test_packing_refuses_a_group_of_two_starts(reference):
    _, _, _, played = reference
    with pytest.raises(ValueError, match="share one spec"):
        RolloutBatch.pack([[played[0], played[4]]])


@pytest.mark.parametrize("density", ["marginal", "chunk", "decision", "episode"])
@pytest.mark.parametrize("trains", [("head",), ("vlm", "head", "critic")])
def test_logprob_at_acting_equals_logprob_at_update(density, trains):
    policy, specs = make_policy(density=density, rho=0.7, episode_share=0.3), specs_of()
    learner = Learner(policy, LearnerConfig(), trains)
    played = play_here(policy, specs, episode_keys(0, "two", count=len(specs)))
    batch = RolloutBatch.pack([played[i : i + 4] for i in range(0, len(played), 4)])
    rows = np.argwhere(batch.valid)
    scores = learner.evaluate(batch, rows)
    acted = batch.chunk.logprob[rows[:, 0], rows[:, 1]]
    np.testing.assert_allclose(scores.logprob.detach().numpy(), acted, atol=1e-4)
    kept_images = batch.obs.images.shape[2] > 0
    assert kept_images == ("vlm" in trains)  # frozen features replace images


def test_final_value_only_after_a_time_limit_and_only_if_asked():
    policy, specs = make_policy(), specs_of()
    with torch.no_grad():
        for parameter in policy.groups()["critic"]:
            parameter.normal_(0, 0.5)
    keys = episode_keys(1, "final", count=len(specs))
    asked = play_here(policy, specs, keys, final_value=True)
    assert any(t.truncated for t in asked)
    assert any(t.success for t in asked)
    for t in asked:
        assert (t.final_value != 0) == t.truncated
    assert all(t.final_value == 0 for t in play_here(policy, specs, keys))


def test_greedy_is_deterministic_and_ignores_keys():
    policy, specs = make_policy(), specs_of(size=1)
    first = play_here(policy, specs, [1] * len(specs), greedy=True)
    second = play_here(policy, specs, [2] * len(specs), greedy=True)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.chunk.raw, b.chunk.raw)
