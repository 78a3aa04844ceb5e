"""Cloning: schedule and augmentation by hand, and that it fits what it is shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.helpers import WORLD, fit, make_policy
from vla_rl import seeding, sft
from vla_rl.demos.chunks import ChunkDataset
from vla_rl.envs import point_reach
from vla_rl.learning.distributed import Ranks
from vla_rl.learning.learner import Learner, LearnerConfig
from vla_rl.rollout.slots import SlotPool
from vla_rl.types import EpisodeSpec, Observation


@pytest.fixture(scope="module")
def data():
    pool = SlotPool("point_reach", point_reach.Settings())
    return ChunkDataset([pool.record(spec) for spec in WORLD.resolve().specs("demo", 5)], 3)


def test_one_cycle_by_hand():
    assert sft.one_cycle(0.0) == pytest.approx(1 / 25)
    assert sft.one_cycle(0.3) == pytest.approx(1.0)
    assert sft.one_cycle(0.65) == pytest.approx(0.5)
    assert sft.one_cycle(1.0) == pytest.approx(0.0)


def test_augmentation_shifts_each_image_as_a_whole():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (40, 2, 8, 8, 3), dtype=np.uint8)
    obs = Observation(images, np.zeros((40, 2), np.float32))
    config = sft.SFTConfig(image_shift=1, state_noise=0.0)
    shifted = sft.augment(obs, config, np.ones(2), np.random.default_rng(1))
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    seen = set()
    for row in range(40):
        places = [
            (y, x)
            for y in range(3)
            for x in range(3)
            if (padded[row, :, y : y + 8, x : x + 8] == shifted.images[row]).all()
        ]
        assert len(places) == 1  # both views by the same shift
        seen.add(places[0])
    assert len(seen) > 5
    np.testing.assert_array_equal(shifted.state, obs.state)


def test_colour_jitter_changes_each_row_in_its_own_way_and_leaves_grey_grey():
    rng = np.random.default_rng(0)
    grey = np.repeat(rng.integers(60, 120, (6, 2, 4, 4, 1), dtype=np.uint8), 3, axis=-1)
    changed = sft.recoloured(grey, 0.3, np.random.default_rng(1)).astype(int)
    assert np.ptp(changed, axis=-1).max() <= 1  # rounding
    brightness = changed.sum((1, 2, 3, 4)) / grey.sum((1, 2, 3, 4))
    assert len(set(brightness.round(3))) == 6
    assert ((brightness > 0.68) & (brightness < 1.32)).all()
    red = np.zeros((6, 2, 4, 4, 3), np.uint8)
    red[..., 0] = 100
    first = sft.recoloured(red, 0.3, np.random.default_rng(1))
    assert (first == first[:, :1, :1, :1]).all()  # one map for all pixels and views of a row
    assert (first[..., 1:] > 0).any()  # it has taken on other colours
    assert (first == sft.recoloured(red, 0.3, np.random.default_rng(1))).all()
    assert (sft.recoloured(red, 0.0, rng) == red).all()


def test_every_task_is_drawn_equally_often_though_a_variant_says_the_same():
    pool = SlotPool("point_reach", point_reach.Settings())
    red = point_reach.tasks()[0]
    many = [pool.record(EpisodeSpec(red, seed)) for seed in range(9)]
    other = pool.record(EpisodeSpec(red, 50))
    other = replace(other, spec=EpisodeSpec(replace(red, id="red-new"), 50))
    data = ChunkDataset([*many, other], chunk=2)
    assert len(data.sentences) == 1
    rows = data.sample(np.random.default_rng(0), 2000, balance_tasks=True).rows
    share = float(np.mean(rows >= len(data) - len(other)))
    assert 0.45 < share < 0.55


def test_cloning_fits_and_depends_on_the_seed_only(data):
    def losses(seed):
        return fit(make_policy(), data, sft.SFTConfig(steps=120, image_shift=0), seed)

    first, second, other = losses(0), losses(0), losses(1)
    assert first == second
    assert first != other
    assert np.mean(first[-10:]) < 0.7 * np.mean(first[:10])


def test_a_frozen_backbone_looks_at_every_demonstration_once(data):
    policy, seen = make_policy(), []
    before = policy.vision.weight.clone()
    policy.vision.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    found = fit(policy, data, sft.SFTConfig(steps=120, train_vlm=False))
    assert sum(seen) == len(data)
    assert torch.equal(policy.vision.weight, before)
    assert np.mean(found[-10:]) < 0.8 * np.mean(found[:10])


def whole_of(anchor, step):
    """The loss of all micro-batches."""
    return torch.stack(list(anchor(step))).sum()


@pytest.mark.parametrize("trains", [("head",), ("vlm", "head")])
def test_an_anchor_pulls_towards_the_demonstrations(data, trains):
    policy = make_policy()
    learner = Learner(policy, LearnerConfig(lr=1e-3), trains)
    anchor = sft.DemoAnchor(policy, data, sft.AnchorConfig(coef=2.0), seed=0)
    rng = seeding.generator(0, "anchor", 5)
    batch = data.sample(rng, 64, True)
    features = policy.features(batch.obs, batch.instruction) if trains == ("head",) else None
    loss = policy.imitation_loss(batch.obs, batch.instruction, batch.actions, batch.mask, features)
    # the batch of step 5, whenever it is asked
    torch.testing.assert_close(whole_of(anchor, 5), 2.0 * loss)
    learner.regulariser = anchor
    before = float(whole_of(anchor, 0).detach())
    nothing = torch.zeros((), requires_grad=True)
    for _ in range(50):
        learner.accumulate(nothing * 1)
        learner.step()
    assert learner.steps == 50
    assert float(whole_of(anchor, 0).detach()) < before


@pytest.mark.parametrize("trains", [("head",), ("vlm", "head")])
@pytest.mark.parametrize(("world", "micro"), [(1, 0), (1, 10), (3, 0), (3, 7)])
def test_parts_of_an_anchor_over_ranks_add_up_to_the_whole(data, trains, world, micro):
    policy = make_policy()
    learner = Learner(policy, LearnerConfig(), trains)
    sizes: list[int] = []
    found = policy.imitation_loss

    def counted(obs, words, actions, *rest):
        sizes.append(len(actions))
        return found(obs, words, actions, *rest)

    def gradient(losses):
        policy.zero_grad(set_to_none=True)
        total = 0.0
        for loss in losses:
            learner.accumulate(loss)
            total += float(loss.detach())
        return total, [p.grad.clone() for p in policy.parameters() if p.grad is not None]

    config = sft.AnchorConfig(coef=2.0, batch_size=40)
    whole, wanted = gradient(sft.DemoAnchor(policy, data, config, seed=0)(5))
    policy.imitation_loss = counted
    config = replace(config, micro_batch_size=micro)
    ranks = [sft.DemoAnchor(policy, data, config, 0, Ranks(r, world)) for r in range(world)]
    parts = [part for anchor in ranks for part in anchor(5)]
    assert sum(sizes) == 40
    assert max(sizes) <= (micro or 40)
    assert len(parts) == {(1, 0): 1, (1, 10): 4, (3, 0): 3, (3, 7): 6}[world, micro]
    total, gradients = gradient(parts)
    assert total == pytest.approx(whole, rel=1e-5)
    for left, right in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-6)


def test_an_anchor_leaves_torchs_generator_alone(data):
    policy = make_policy(head="flow_sde")
    anchor = sft.DemoAnchor(policy, data, sft.AnchorConfig(coef=1.0, micro_batch_size=9), seed=0)
    stood = torch.get_rng_state()
    first, other, again = (float(whole_of(anchor, step).detach()) for step in (4, 5, 4))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), stood)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"batch_size": 0}, {"image_shift": -1}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        sft.SFTConfig(**bad)


@pytest.mark.parametrize("bad", [{"coef": -1.0}, {"batch_size": 0}, {"micro_batch_size": -1}])
def test_bad_anchor_is_refused(bad):
    ((name, value),) = bad.items()
    with pytest.raises(ValueError, match=rf"anchor {name} must .*, got {value}"):
        sft.AnchorConfig(**bad)
