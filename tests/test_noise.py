"""Exploration noise: its moments, its conditional law, and that it follows the key alone."""

from __future__ import annotations

import numpy as np
import pytest

from vla_rl.policies import _noise

H, A, RHO, SHARE = 5, 2, 0.8, 0.3


def keys(episodes: int, decisions: int) -> np.ndarray:
    """``[episodes * decisions, 2]`` keys, episode by episode."""
    episode, decision = np.meshgrid(np.arange(episodes), np.arange(decisions), indexing="ij")
    return np.stack([episode.ravel() + 5_000, decision.ravel()], axis=1)


def total(noise: _noise.Noise, rho: float = RHO, share: float = SHARE) -> np.ndarray:
    scale = _noise.innovation_scale(noise.offset.shape[1], rho, share)
    return noise.offset + scale[:, None] * noise.innovation


def covariance(rho: float, share: float) -> np.ndarray:
    """What the covariance of the steps of one chunk should be."""
    lag = np.abs(np.subtract.outer(np.arange(H), np.arange(H)))
    return share + (1 - share) * rho**lag


@pytest.mark.parametrize(("rho", "share"), [(0.8, 0.3), (0.5, 0.0), (0.0, 0.6), (0.0, 0.0)])
def test_moments_within_and_between_decisions(rho: float, share: float) -> None:
    episodes = 8_000
    noise = total(_noise.draw(keys(episodes, 2), H, A, rho, share), rho, share)
    first, second = noise.reshape(episodes, 2, H, A).transpose(1, 0, 2, 3)
    for dimension in range(A):
        one, two = first[..., dimension], second[..., dimension]
        assert np.abs(one.mean(axis=0)).max() < 0.05
        np.testing.assert_allclose(np.cov(one.T), covariance(rho, share), atol=0.05)
        np.testing.assert_allclose(one.T @ two / episodes, share, atol=0.05)
    assert np.abs(first[..., 0].T @ first[..., 1] / episodes).max() < 0.05


def test_offset_and_scale_are_the_conditional_law() -> None:
    """Brute force: condition the joint normal of (c, e_0 .. e_4) on c and on the earlier e."""
    joint = np.block(
        [
            [np.ones((1, 1)), np.full((1, H), np.sqrt(SHARE))],
            [np.full((H, 1), np.sqrt(SHARE)), covariance(RHO, SHARE)],
        ]
    )
    noise = _noise.draw(keys(20, 1), H, 1, RHO, SHARE)
    episode, _ = _noise._normals(keys(20, 1), H, 1)
    known = np.concatenate([episode, total(noise)[..., 0]], axis=1)
    scale = _noise.innovation_scale(H, RHO, SHARE)
    for step in range(H):
        past, now = slice(0, step + 1), step + 1
        weights = np.linalg.solve(joint[past, past], joint[past, now])
        variance = joint[now, now] - weights @ joint[past, now]
        np.testing.assert_allclose(noise.offset[:, step, 0], known[:, past] @ weights, atol=1e-5)
        np.testing.assert_allclose(scale[step] ** 2, variance, atol=1e-6)


def test_scale_by_hand() -> None:
    # share .19 leaves .81, of which 1 - .6^2 = .64 is new: sqrt(.81) = .9, sqrt(.81 * .64) = .72
    np.testing.assert_allclose(_noise.innovation_scale(3, 0.6, 0.19), [0.9, 0.72, 0.72], atol=1e-6)


def test_a_row_follows_its_key_alone() -> None:
    order = keys(4, 3)
    batch = total(_noise.draw(order, H, A, RHO, SHARE))
    shuffled = np.random.default_rng(0).permutation(len(order))
    assert np.array_equal(total(_noise.draw(order[shuffled], H, A, RHO, SHARE)), batch[shuffled])
    for row in range(len(order)):
        alone = total(_noise.draw(order[row : row + 1], H, A, RHO, SHARE))
        assert np.array_equal(alone[0], batch[row])
    np.random.seed(0)
    assert np.array_equal(total(_noise.draw(order, H, A, RHO, SHARE)), batch)


def test_several_draws_are_independent_and_each_is_the_noise() -> None:
    order = keys(4_000, 2)
    noise = _noise.marginal(order, 3, H, A, RHO, SHARE).reshape(len(order), 3, H, A)
    single = _noise.marginal(order, 1, H, A, RHO, SHARE).reshape(len(order), H, A)
    np.testing.assert_array_equal(single, total(_noise.draw(order, H, A, RHO, SHARE)))
    first, later = noise[::2], noise[1::2]
    expected = _noise.covariance(H, RHO, SHARE)
    np.testing.assert_allclose(expected, covariance(RHO, SHARE))
    for one in range(3):
        np.testing.assert_allclose(np.cov(first[:, one, :, 0].T), expected, atol=0.08)
        np.testing.assert_allclose(
            first[:, one, :, 1].T @ later[:, one, :, 1] / 4_000, SHARE, atol=0.08
        )
        for other in range(one):
            assert np.abs(first[:, one, :, 0].T @ first[:, other, :, 0] / 4_000).max() < 0.08
            assert np.abs(first[:, one, :, 0].T @ later[:, other, :, 0] / 4_000).max() < 0.08


def test_choices_are_equally_likely_and_follow_the_key_alone() -> None:
    order = keys(1_000, 4)
    found = _noise.pick(order, 4)
    np.testing.assert_allclose(np.bincount(found, minlength=4) / len(order), 0.25, atol=0.03)
    assert np.array_equal(_noise.pick(order[::-1], 4), found[::-1])
    np.testing.assert_allclose(np.corrcoef(found[:-1], found[1:])[0, 1], 0, atol=0.05)


def test_keys_that_differ_give_other_noise() -> None:
    # Large and negative episode keys are fine; episode and decision must not be interchangeable.
    order = np.array([[1, 2], [2, 1], [1, 1], [2, 2], [2**62, 0], [-1, 0], [0, 0]], np.int64)
    noise = _noise.draw(order, H, A, RHO, SHARE).innovation.reshape(len(order), -1)
    assert len(np.unique(noise, axis=0)) == len(order)
    assert np.abs(np.corrcoef(noise) - np.eye(len(order))).max() < 0.95


def test_noise_is_pinned() -> None:
    """Recorded episodes must be replayable by later versions."""
    noise = _noise.draw(np.array([[7, 3]], np.int64), 2, 2, RHO, SHARE)
    pinned = [[[-0.161832, -0.016270], [-0.136465, -0.870576]]]
    np.testing.assert_allclose(total(noise), pinned, atol=1e-5)
