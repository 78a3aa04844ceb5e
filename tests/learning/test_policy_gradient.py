"""The update that the policy-gradient family shares: properties that hold whatever the numbers."""

from __future__ import annotations

import copy
import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from tests.helpers import fake_returns, fresh, make_policy, play_groups
from vla_rl import functional as F
from vla_rl.algorithms import dr_grpo, gfpo, grpo, gspo, loop, ppo, reinforce_pp, rloo
from vla_rl.episode_end import EpisodeEnd
from vla_rl.learning.distributed import ALONE, Ranks
from vla_rl.learning.group_relative import GroupRelative
from vla_rl.learning.learner import Learner, LearnerConfig
from vla_rl.learning.policy_gradient import PolicyGradient
from vla_rl.train import Loop, TrainConfig
from vla_rl.types import RolloutBatch

SIZE = 4  # of a group
ONE_STEP = {"group_size": SIZE, "ppo_epochs": 1, "ppo_mini_batch_size": 0, "target_kl": 0.0}
WITHOUT_KL = {"kl_coef": 0.0, "kl_placement": "none"}


# ----------------------------------------------------------------------------------------- material


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


@pytest.fixture(scope="module")
def groups():
    return uneven_groups(make_learner())


@pytest.fixture(scope="module")
def batch(groups):
    return RolloutBatch.pack(groups)


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


# ----------------------------------------------------- 1: a ratio of 1 is the plain policy gradient


@pytest.mark.parametrize("mode", F.AGGREGATIONS)
@pytest.mark.parametrize("loss_type", ["ppo_clip", "cispo", "sapo", "reinforce", "vespo", "gmpo"])
def test_at_a_ratio_of_one_the_gradient_is_minus_the_weighted_advantage(loss_type, mode):
    mask = torch.tensor([[True, True, False], [True, True, True]])
    advantage = torch.tensor([[2.0], [-0.5]], dtype=torch.float64)
    new = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    new.requires_grad_()
    episode = torch.arange(2)
    ratio = F.log_ratio(new, new.detach(), mask, "token", episode)
    loss = F.surrogate_loss(loss_type, new, ratio, advantage, mask, episode, 0.2, 0.2).loss
    weight = F.unit_weights(mask[:, :, None], mode, 5.0)[:, :, 0].double()
    (gradient,) = torch.autograd.grad((weight * loss).sum(), new)
    torch.testing.assert_close(gradient, -weight * advantage)
    if loss_type in ("ppo_clip", "gmpo"):
        torch.testing.assert_close((weight * loss).sum(), -(weight * advantage).sum())


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


# ----------------------------------------------------------------------------- 2: order and padding


ALGORITHMS_OF_EVERY_KIND = {
    "token": combined("token", "token-mean"),
    "chunk": combined("chunk", "seq-mean-token-sum-norm"),
    "sequence": combined("sequence", "seq-mean-token-mean"),
    "gmpo": combined("token", "seq-mean-token-mean", loss_type="gmpo"),
    "process": combined("action", "seq-mean-token-mean", adv_estimator="grpo_process"),
    "whitened": combined("action", "token-mean", adv_estimator="reinforce_plus_plus"),
    "opo": combined("token", "seq-mean-token-sum", adv_estimator="opo"),
}


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


# --------------------------------------------------------------------------------- 3: micro-batches


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
    shares = [
        make_learner(ranks=Ranks(rank, world)).parts(batch, rows_of(batch), size, together)
        for rank in range(world)
    ]
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


# ----------------------------------------------------------------------- 4: groups without contrast


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


# ----------------------------------------------------------------------------- 5 to 8: equivalences


def test_gspo_of_single_units_is_grpo():
    torch.manual_seed(0)
    old = torch.randn(6, 1, dtype=torch.float64)
    new = (old + 0.2 * torch.randn(6, 1, dtype=torch.float64)).requires_grad_()
    advantage = torch.tensor([1.0, -1.0, 0.5, -0.5, 2.0, -2.0], dtype=torch.float64)[:, None]
    mask, episode = torch.ones(6, 1, dtype=torch.bool), torch.arange(6)
    results = []
    for level in ("token", "sequence"):
        ratio = F.log_ratio(new, old, mask, level, episode)
        out = F.surrogate_loss("ppo_clip", new, ratio, advantage, mask, episode, 0.1, 0.1)
        results.append((out.loss.detach(), *torch.autograd.grad(out.loss.sum(), new)))
    for left, right in zip(*results, strict=True):
        assert torch.equal(left, right)


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


# ------------------------------------------------------------------------- 9: what was not executed


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


# ----------------------------------------------------------------------------- measured clip ranges


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


# --------------------------------------------------------------------------------------- divergence


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


# ------------------------------------------------------------------------------- rollout correction


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


# ------------------------------------------------------------------------------------------- critic


CRITIC = ("head", "critic")


def test_the_critic_is_trained_alone_first(batch):
    learner = make_learner(CRITIC)
    algorithm = ppo.Algorithm(critic_warmup=2)
    for wait in (True, True, False):
        before = {n: [p.clone() for p in ps] for n, ps in learner.policy.groups().items()}
        algorithm.update(learner, batch, fresh(algorithm), np.random.default_rng(0))
        after = learner.policy.groups()
        kept = {
            name: all(torch.equal(a, b) for a, b in zip(before[name], after[name], strict=True))
            for name in after
        }
        assert kept == {"vlm": True, "head": wait, "critic": False}


def test_the_critic_learns_the_returns_of_a_batch(groups):
    paid = [fake_returns(group, [g / 2] * SIZE) for g, group in enumerate(groups)]
    batch = RolloutBatch.pack(paid)
    learner = make_learner(CRITIC)
    algorithm = ppo.Algorithm(gamma=1.0, gae_lambda=1.0, cliprange_value=0.0, critic_warmup=99)
    rows = rows_of(batch)
    wanted = batch.reward.sum(1)[rows[:, 0]]

    state = fresh(algorithm)

    def error():
        said = state.mean + state.scale * learner.evaluate(batch, rows).value.detach().numpy()
        return np.mean((said - wanted) ** 2)

    before = error()
    for _ in range(30):
        log = algorithm.update(learner, batch, state, np.random.default_rng(0))
    assert error() < 0.1 * before
    assert np.isfinite(log["critic/vf_loss"])


def test_a_time_limit_is_continued_and_an_end_is_not(batch):
    algorithm = ppo.Algorithm(gamma=0.9, gae_lambda=0.5, whiten_advantages=False)
    reward = torch.from_numpy(batch.reward)
    value = np.random.default_rng(0).normal(size=batch.valid.shape).astype(np.float32)
    batch = with_chunk(replace(batch, final_value=np.ones(len(batch), np.float32)), value=value)
    every = np.ones(len(batch), bool)

    def advantage(bootstrapped):
        state = fresh(algorithm)  # mean 0 and scale 1: the critic speaks in units of reward
        credit = algorithm.credit(replace(batch, bootstrapped=bootstrapped), reward, state)
        assert credit.target is not None
        target = torch.from_numpy(value) + credit.advantage * state.scale
        valid = torch.from_numpy(batch.valid)
        known = (target - state.mean) / state.scale
        torch.testing.assert_close(credit.target[valid], known[valid])
        return credit.advantage * state.scale

    ended, cut = advantage(~every), advantage(every)
    more = (cut - ended).numpy()
    for row, count in enumerate(batch.valid.sum(1)):
        # 0.9 at the last decision, and 0.9 * 0.5 of that at the one before, ...
        expected = 0.9 * 0.45 ** np.arange(count)[::-1]
        np.testing.assert_allclose(more[row, :count], expected, rtol=1e-3)
        assert not more[row, count:].any()
        last = count - 1
        delta = reward[row, last] - value[row, last]  # of an end: nothing comes after
        assert float(ended[row, last]) == pytest.approx(float(delta), rel=1e-5)


def test_only_episodes_that_time_cut_have_a_final_value():
    def sure(policy):
        policy.critic[-1].bias += 0.25

    learner = make_learner(CRITIC, change=sure)
    episodes = [t for g in play_groups(learner.policy, 30, 8, final_value=True) for t in g]
    assert {t.final_value for t in episodes if t.truncated} == {0.25}
    assert {t.final_value for t in episodes if not t.truncated} == {0.0}


def test_explained_variance_by_hand(batch):
    algorithm = ppo.Algorithm(gamma=1.0, gae_lambda=1.0)
    reward = torch.from_numpy(batch.reward)
    togo = F.returns_to_go(reward).numpy()
    all_of_it = algorithm.credit(with_chunk(batch, value=togo), reward, fresh(algorithm))
    assert all_of_it.log["critic/vf_explained_var"] == pytest.approx(1)
    zeros = with_chunk(batch, value=np.zeros_like(togo))
    nothing = algorithm.credit(zeros, reward, fresh(algorithm))
    assert nothing.log["critic/vf_explained_var"] == pytest.approx(0, abs=1e-6)


def test_return_statistics_by_hand():
    state = fresh(ppo.Algorithm())
    assert (state.mean, state.scale) == (0, 1)
    state.remember(torch.tensor([1.0, 3.0]))
    assert (state.mean, state.spread) == (pytest.approx(2), pytest.approx(1))
    state.remember(torch.tensor([5.0, 5.0]))
    # weights .9 and 1: mean (.9 * 2 + 5) / 1.9, mean square (.9 * 5 + 25) / 1.9
    assert state.mean == pytest.approx(6.8 / 1.9)
    assert state.spread == pytest.approx((29.5 / 1.9 - (6.8 / 1.9) ** 2) ** 0.5)
    again = fresh(ppo.Algorithm())
    again.load_state_dict(json.loads(json.dumps(state.state_dict())))
    assert again == state
    flat = fresh(ppo.Algorithm())
    flat.remember(torch.full((9,), 0.1))  # equal returns have no deviation, but rounding
    assert (flat.spread, flat.scale) == (0, 1)


def test_a_critics_advantages_are_whitened_over_the_batch_with_a_floor():
    valid = torch.tensor([[True, True], [True, False]])
    advantage = torch.tensor([[1.0, 2.0], [6.0, 0.0]])
    white = F.whiten_advantages(advantage, valid, floor=0.1)
    # mean 3, deviation sqrt((4 + 1 + 9) / 2) = 2.645751
    expected = torch.tensor([[-2.0, -1.0], [3.0, 0.0]]) / 2.645751
    torch.testing.assert_close(white, expected)
    little = F.whiten_advantages(advantage / 1000, valid, floor=0.1)
    torch.testing.assert_close(little, torch.tensor([[-0.02, -0.01], [0.03, 0.0]]))
    equal = F.whiten_advantages(torch.full((2, 2), 0.1), valid, floor=0.0)
    assert not equal.any()


def test_a_batch_without_any_reward_ever_moves_no_policy(groups):
    """All that is left of its advantages are the critic's errors."""

    def sure(policy):
        torch.nn.init.normal_(policy.critic[-1].weight)

    nothing = RolloutBatch.pack([fake_returns(g, [0.0] * SIZE) for g in groups])
    learner = make_learner(CRITIC, change=sure)
    said = learner.evaluate(nothing, rows_of(nothing)).value
    assert float(said.detach().std()) > 0.1
    algorithm, head = ppo.Algorithm(critic_warmup=0), learner.policy.groups()["head"]
    before = [p.clone() for p in head]
    state = fresh(algorithm)
    algorithm.update(learner, nothing, state, np.random.default_rng(0))
    assert all(torch.equal(a, b) for a, b in zip(before, head, strict=True))
    # Later, beside rewards that were met, the errors count for no more than they are.
    state.remember(torch.tensor([-1000.0, 1000.0]))
    credit = algorithm.credit(
        with_chunk(nothing, value=0 * nothing.chunk.value), torch.zeros(nothing.valid.shape), state
    )
    assert not credit.advantage.any()


@pytest.mark.parametrize("factor", [2.0**-7, 2.0**7])
def test_ppo_learns_the_same_whatever_the_unit_of_reward(groups, factor):
    """Powers of two, which floats multiply exactly: then every weight is the same."""

    def after(factor):
        paid = [
            fake_returns(g, [factor * (0.1 * i + n) for i in range(SIZE)])
            for n, g in enumerate(groups)
        ]
        learner = make_learner(CRITIC)
        algorithm = ppo.Algorithm(critic_warmup=1, ppo_epochs=2, ppo_mini_batch_size=10)
        state = fresh(algorithm)
        for update in range(3):
            rng = np.random.default_rng(update)
            algorithm.update(learner, RolloutBatch.pack(paid), state, rng)
        return weights(learner)

    assert same_weights(after(1.0), after(factor))


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


# ----------------------------------------------------------------------- decisions by themselves


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


# ----------------------------------------------------------------------------------------- refusals


SEQUENCE = {
    "importance_sampling_level": "sequence",
    "clip_ratio_low": 0.01,
    "clip_ratio_high": 0.01,
}

REFUSED = {
    "reinforce in minibatches": (
        GroupRelative,
        {"loss_type": "reinforce", "ppo_epochs": 1},
        "ppo_mini_batch_size must be 0",
    ),
    "unit clip range at sequence level": (
        GroupRelative,
        {"importance_sampling_level": "sequence"},
        r"clip range 0\.2/0\.2 does not fit importance_sampling_level 'sequence'.*clip_quantile",
    ),
    "the same with single gradients": (
        GroupRelative,
        {"importance_sampling_level": "sequence_token"},
        "does not fit importance_sampling_level 'sequence_token'",
    ),
    "sequence clip range at unit level": (
        GroupRelative,
        {"clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4},
        r"clip range 0\.0003/0\.0004 does not fit importance_sampling_level 'token'",
    ),
    "no clip range": (GroupRelative, {"clip_ratio_low": 0.0}, "clip_ratio_low and .* positive"),
    "no ratio below 0": (GroupRelative, {"clip_ratio_low": 1.0}, "clip_ratio_low must be below 1"),
    "dual clip below 1": (GroupRelative, {"clip_ratio_c": 1.0}, "clip_ratio_c must be above 1"),
    "negative dual clip": (GroupRelative, {"clip_ratio_c": -3.0}, "clip_ratio_c must be above 1"),
    "quantile of 1": (GroupRelative, {"clip_quantile": 1.0}, "clip_quantile must be below 1"),
    "negative quantile": (GroupRelative, {"clip_quantile": -0.1}, "clip_quantile must not be neg"),
    "length-weighted sequences": (
        GroupRelative,
        {**SEQUENCE, "loss_agg_mode": "token-mean"},
        r"'token-mean' does not fit one ratio per episode .*Use 'seq-mean-token-mean'",
    ),
    "sequences over a constant": (
        GroupRelative,
        {**SEQUENCE, "loss_agg_mode": "seq-mean-token-sum-norm"},
        "'seq-mean-token-sum-norm' does not fit one ratio per episode",
    ),
    "length-weighted products": (
        GroupRelative,
        {"importance_sampling_level": "trajectory", "loss_agg_mode": "token-mean"},
        "does not fit one ratio per episode .'trajectory'",
    ),
    "length-weighted gmpo": (
        GroupRelative,
        {"loss_type": "gmpo", "loss_agg_mode": "token-mean"},
        "does not fit one ratio per episode .*'gmpo'",
    ),
    "a mean of means": (GroupRelative, {**SEQUENCE, "loss_type": "gmpo"}, "'gmpo' averages over"),
    "vespo of sequences": (
        GroupRelative,
        {**SEQUENCE, "loss_type": "vespo"},
        "'vespo' averages over the episode itself.*not 'sequence'",
    ),
    "reuse without ratio": (
        GroupRelative,
        {"loss_type": "reinforce", "ppo_epochs": 2},
        "'reinforce' has no ratio.*ppo_epochs must be 1, got 2",
    ),
    "rloo with reuse": (rloo.Algorithm, {"ppo_epochs": 3}, "ppo_epochs must be 1, got 3"),
    "kl without a place": (GroupRelative, {"kl_coef": 0.1}, "kl_coef 0.1 and kl_placement 'none'"),
    "a place without kl": (
        GroupRelative,
        {"kl_placement": "reward"},
        "kl_coef 0.0 and kl_placement 'reward' do not fit",
    ),
    "grpo without kl_coef only": (grpo.Algorithm, {"kl_coef": 0.0}, "kl_placement 'loss' do not"),
    "negative kl": (GroupRelative, {"kl_coef": -1.0}, "kl_coef must not be negative, got -1"),
    "weighted kl of sequences": (
        GroupRelative,
        {**SEQUENCE, "kl_unbiased": True},
        "kl_unbiased needs one ratio per unit, not 'sequence'",
    ),
    "negative entropy": (
        GroupRelative,
        {"entropy_coef": -1.0},
        "entropy_coef must not be negative",
    ),
    "no pass": (GroupRelative, {"ppo_epochs": 0}, "ppo_epochs 0 must be at least 1"),
    "negative minibatch": (GroupRelative, {"ppo_mini_batch_size": -1}, "ppo_mini_batch_size -1"),
    "negative micro-batch": (GroupRelative, {"ppo_micro_batch_size": -1}, "micro_batch_size -1"),
    "negative target": (GroupRelative, {"target_kl": -0.1}, "target_kl must not be negative"),
    "negative scale": (GroupRelative, {"loss_scale_factor": -1.0}, "loss_scale_factor must not"),
    "no correction": (
        GroupRelative,
        {"rollout_correction_max": 0.0},
        "rollout_correction_max must be positive, got 0",
    ),
    "no rollouts": (GroupRelative, {"group_size": 0}, "group_size must be at least 1, got 0"),
    "nothing to compare": (grpo.Algorithm, {"group_size": 1}, "at least 2, got 1"),
    "nobody left": (loop.Algorithm, {"group_size": 1}, "'rloo' compares rollouts .* at least 2"),
    "window reversed": (
        GroupRelative,
        {"filter_lower": 0.9, "filter_upper": 0.1},
        "filter_lower 0.9 and filter_upper 0.1 must be shares",
    ),
    "window below 0": (GroupRelative, {"filter_lower": -0.1}, "filter_lower -0.1"),
    "window above 1": (GroupRelative, {"filter_upper": 1.5}, "filter_upper 1.5"),
    "empty window": (GroupRelative, {"filter_lower": 1.0}, "filter_lower 1.0"),
    "all of a group": (
        gfpo.Algorithm,
        {"group_size": 8},
        "num_remains_in_group 8 must be at least 2 and below group_size 8",
    ),
    "one of a group": (gfpo.Algorithm, {"num_remains_in_group": 1}, "num_remains_in_group 1 must"),
    "adaptively all": (
        gfpo.Algorithm,
        {"adaptive": True, "adaptive_sizes": (16, 8, 6, 4)},
        "adaptive_sizes 16 must be at least 2 and below group_size 16",
    ),
    "unknown attribute": (
        gfpo.Algorithm,
        {"metric": "step"},
        "unknown attribute 'step'; did you mean 'steps'.*a path package.module.function",
    ),
    "gamma above 1": (ppo.Algorithm, {"gamma": 1.1}, r"gamma must be in \[0, 1\], got 1.1"),
    "lambda below 0": (ppo.Algorithm, {"gae_lambda": -0.1}, r"gae_lambda must be in \[0, 1\]"),
    "negative critic loss": (ppo.Algorithm, {"vf_coef": -1.0}, "vf_coef must not be negative"),
    "negative critic clip": (ppo.Algorithm, {"cliprange_value": -1.0}, "cliprange_value must not"),
    "negative warm-up": (
        ppo.Algorithm,
        {"critic_warmup": -1},
        "critic_warmup must not be negative",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_cannot_work_are_refused(name):
    kind, settings, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        kind(**settings)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (GroupRelative, {"importance_sampling_level": "sequence", "clip_quantile": 0.85}),
        (GroupRelative, {**SEQUENCE, "loss_agg_mode": "seq-mean-token-sum"}),
        (GroupRelative, {"loss_type": "cispo", "clip_ratio_low": 10.0}),
        (
            GroupRelative,
            {
                **{"loss_type": "reinforce", "ppo_epochs": 1, "ppo_mini_batch_size": 0},
                "clip_ratio_low": 0.0,
            },
        ),
        (GroupRelative, {"loss_type": "vespo", "loss_agg_mode": "token-mean"}),
        (reinforce_pp.Algorithm, {"adv_estimator": "reinforce_plus_plus", "group_size": 1}),
        (grpo.Algorithm, WITHOUT_KL),
        (gfpo.Algorithm, {"group_size": 9}),
    ],
)
def test_unusual_settings_that_work_are_taken(kind, settings):
    assert kind(**settings)


# ------------------------------------------------------------------------------- what is left out


def test_an_algorithm_without_credit_cannot_be_made():
    class Unfinished(PolicyGradient):
        pass

    with pytest.raises(TypeError, match="credit"):
        Unfinished()


def test_gfpo_refuses_an_estimator_that_it_would_ignore():
    with pytest.raises(ValueError, match="'rloo'"):
        gfpo.Algorithm(adv_estimator="rloo")


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
