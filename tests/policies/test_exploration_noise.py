"""Exploration noise: its moments, what its constant tells, and that it follows the key alone."""

from __future__ import annotations

import numpy as np
import pytest

from vla_rl.policies._heads import exploration_noise

H, A, RHO, SHARE = 5, 2, 0.8, 0.3


def keys(episodes: int, decisions: int) -> np.ndarray:
    """``[episodes * decisions, 2]`` keys, episode by episode."""
    episode, decision = np.meshgrid(np.arange(episodes), np.arange(decisions), indexing="ij")
    return np.stack([episode.ravel() + 5_000, decision.ravel()], axis=1)


def single(order: np.ndarray, rho: float = RHO, share: float = SHARE) -> np.ndarray:
    """One draw for each row, ``[B, H, A]``."""
    return exploration_noise.draw(order, 1, H, A, rho, share).whole.reshape(len(order), H, A)


def covariance(rho: float, share: float) -> np.ndarray:
    """What the covariance of the steps of one chunk should be."""
    lag = np.abs(np.subtract.outer(np.arange(H), np.arange(H)))
    return share + (1 - share) * rho**lag


@pytest.mark.parametrize(("rho", "share"), [(0.8, 0.3), (0.5, 0.0), (0.0, 0.6), (0.0, 0.0)])
def test_moments_within_and_between_decisions(rho: float, share: float) -> None:
    episodes = 8_000
    noise = single(keys(episodes, 2), rho, share)
    first, second = noise.reshape(episodes, 2, H, A).transpose(1, 0, 2, 3)
    for dimension in range(A):
        one, two = first[..., dimension], second[..., dimension]
        assert np.abs(one.mean(axis=0)).max() < 0.05
        np.testing.assert_allclose(np.cov(one.T), covariance(rho, share), atol=0.05)
        np.testing.assert_allclose(one.T @ two / episodes, share, atol=0.05)
    assert np.abs(first[..., 0].T @ first[..., 1] / episodes).max() < 0.05


def test_given_the_constant_decisions_are_independent() -> None:
    """Mean sqrt(share) c and covariance (1 - share) rho^lag, whichever decision it is."""
    episodes = 8_000
    noise = exploration_noise.draw(keys(episodes, 2), 1, H, A, RHO, SHARE)
    constant = noise.constant.reshape(episodes, 2, 1, A)
    assert np.array_equal(constant[:, 0], constant[:, 1])
    np.testing.assert_allclose(np.cov(constant[:, 0, 0].T), np.eye(A), atol=0.05)
    rest = noise.whole.reshape(episodes, 2, H, A) - np.sqrt(SHARE) * constant
    first, second = rest[..., 0].transpose(1, 0, 2)
    expected = covariance(RHO, SHARE) - SHARE
    np.testing.assert_allclose(np.cov(first.T), expected, atol=0.04)
    assert np.abs(first.T @ second / episodes).max() < 0.04
    assert np.abs(first.T @ constant[:, 0, 0, 0] / episodes).max() < 0.04


def test_a_row_follows_its_key_alone() -> None:
    order = keys(4, 3)
    batch = single(order)
    shuffled = np.random.default_rng(0).permutation(len(order))
    assert np.array_equal(single(order[shuffled]), batch[shuffled])
    for row in range(len(order)):
        alone = single(order[row : row + 1])
        assert np.array_equal(alone[0], batch[row])
    np.random.seed(0)
    assert np.array_equal(single(order), batch)


def test_several_draws_are_independent_and_each_is_the_noise() -> None:
    order = keys(4_000, 2)
    noise = exploration_noise.draw(order, 3, H, A, RHO, SHARE).whole.reshape(len(order), 3, H, A)
    first, later = noise[::2], noise[1::2]
    expected = exploration_noise.covariance(H, RHO, SHARE)
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
    found = exploration_noise.pick(order, 4)
    np.testing.assert_allclose(np.bincount(found, minlength=4) / len(order), 0.25, atol=0.03)
    assert np.array_equal(exploration_noise.pick(order[::-1], 4), found[::-1])
    np.testing.assert_allclose(np.corrcoef(found[:-1], found[1:])[0, 1], 0, atol=0.05)


def test_keys_that_differ_give_other_noise() -> None:
    # Large and negative episode keys are fine; episode and decision must not be interchangeable.
    order = np.array([[1, 2], [2, 1], [1, 1], [2, 2], [2**62, 0], [-1, 0], [0, 0]], np.int64)
    noise = exploration_noise.draw(order, 1, H, A, RHO, SHARE).whole[:, 0]
    assert len(np.unique(noise, axis=0)) == len(order)
    assert np.abs(np.corrcoef(noise) - np.eye(len(order))).max() < 0.95


def test_noise_is_pinned() -> None:
    """Recorded episodes must be replayable by later versions."""
    noise = exploration_noise.draw(np.array([[7, 3]], np.int64), 1, 2, 2, RHO, SHARE).whole
    pinned = [[[-0.161832, -0.016270, -0.136465, -0.870576]]]
    np.testing.assert_allclose(noise, pinned, atol=1e-5)
