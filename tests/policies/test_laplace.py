"""The Laplace head: numbers worked by hand, its law against brute force, and what trains what."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vla_rl.policies._heads.config import LaplaceConfig, Size
from vla_rl.policies._heads.laplace import LaplaceHead

CONTEXT = 6
WORDS = torch.zeros(0)
"""The head reads the instruction through the context only."""


def make(action_dim: int = 2, **settings: Any) -> LaplaceHead:
    torch.manual_seed(0)
    size = Size(settings.pop("chunk", 3), action_dim, CONTEXT, hidden=(16,))
    return LaplaceHead(LaplaceConfig(**settings), size)


def fix(network: nn.Sequential, *values: float) -> None:
    """Let a network say these numbers, whatever it reads."""
    layer = network[-1]
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor(values))


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, CONTEXT, generator=torch.Generator().manual_seed(1))


def keys(count: int) -> np.ndarray:
    return np.stack([np.arange(count), np.arange(count) % 7], axis=1)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.mean(one * other) / np.sqrt(np.mean(one**2) * np.mean(other**2)))


def test_logprob_and_entropy_by_hand() -> None:
    head = make(action_dim=1, chunk=2)
    fix(head.trunk, 0.2, -0.1)
    fix(head.log_scale, math.log(0.25), math.log(0.5))
    logprob, entropy = head.score(rows(1), WORDS, torch.tensor([[0.7, -0.1]]))
    # two scales off: -2 - ln .5; at the mean: -ln 1; entropies 1 + ln .5 and 1 + ln 1
    np.testing.assert_allclose(logprob.detach(), [[-1.306853, 0]], atol=1e-5)
    np.testing.assert_allclose(entropy.detach(), [[0.306853, 1]], atol=1e-5)


def test_it_starts_from_the_given_deviation() -> None:
    law = make(std=0.3)(rows(50))
    np.testing.assert_allclose(math.sqrt(2) * law.log_scale.exp().detach(), 0.3, rtol=0.05)
    assert float(law.mean.detach().abs().max()) < 0.1


def test_deviations_stay_between_where_they_start_and_1() -> None:
    head = make(action_dim=1, chunk=2, std=0.2)
    fix(head.log_scale, -50.0, 50.0)
    std = math.sqrt(2) * head(rows(1)).log_scale.exp().detach()
    np.testing.assert_allclose(std, [[0.2, 1.0]], rtol=1e-5)


def test_cloning_does_not_take_the_exploration_away_and_may_widen_it() -> None:
    """Errors of 0 for one unit and of about .5 for the other."""
    head = make(action_dim=2, chunk=1, std=0.2)
    error = torch.distributions.Laplace(0.0, 0.5).sample((2_000,))
    actions = torch.stack([torch.zeros(2_000), error], dim=1)[:, None]
    fix(head.trunk, 0.0, 0.0)
    optimizer = torch.optim.Adam(head.log_scale.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        mask = torch.ones(2_000, 1, dtype=torch.bool)
        head.imitation_loss(torch.zeros(2_000, CONTEXT), WORDS, actions, mask).backward()
        optimizer.step()
    scale = head(torch.zeros(1, CONTEXT)).log_scale.exp().detach()[0]
    assert float(scale[0]) == pytest.approx(0.2 / math.sqrt(2), rel=1e-5)
    assert float(scale[1]) == pytest.approx(0.5, rel=0.05)
    below = float(head.log_scale(torch.zeros(1, CONTEXT))[0, 0].detach())
    assert below > math.log(0.2 / math.sqrt(2)) - 0.1  # it is held, not driven on


def test_samples_are_laplace_and_persist() -> None:
    """Each unit by itself is Laplace(mean, b); neighbours and decisions stay correlated."""
    head = make(action_dim=1, chunk=2, rho=0.8, episode_share=0.4)
    fix(head.trunk, 0.1, -0.2)
    fix(head.log_scale, math.log(0.2), math.log(0.05))
    episodes = np.repeat(np.arange(20_000), 2)
    order = np.stack([episodes, np.tile([0, 1], 20_000)], axis=1)
    with torch.inference_mode():
        raw = head.sample(rows(len(order)), WORDS, order).raw.numpy()
    unit = (raw - [0.1, -0.2]) / [0.2, 0.05]
    once = unit[::2]  # one decision of each episode is independent of the others
    quantiles = np.quantile(once, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0).T
    expected = [math.log(0.1), math.log(0.5), 0, -math.log(0.5), -math.log(0.1)]
    np.testing.assert_allclose(quantiles, [expected] * 2, atol=0.08)
    assert _correlation(*once.T) > 0.75  # .4 + .6 * .8 = .88 before the ranks
    assert 0.3 < _correlation(unit[::2, 0], unit[1::2, 0]) < 0.45


def test_score_repeats_sample_and_greedy_is_the_mean() -> None:
    head = make()
    context = rows(5)
    with torch.inference_mode():
        sample = head.sample(context, WORDS, keys(5))
        greedy = head.sample(context, WORDS, None)
        assert torch.equal(greedy.raw, head(context).mean)
    torch.testing.assert_close(head.score(context, WORDS, sample.raw)[0], sample.logprob)
    torch.testing.assert_close(head.score(context, WORDS, greedy.raw)[0], greedy.logprob)
    assert torch.equal(sample.actions.flatten(1), sample.raw.clamp(-1, 1))


def test_imitation_loss_by_hand() -> None:
    head = make(action_dim=1, chunk=3)
    fix(head.trunk, 0.5, 0.0, 0.0)
    fix(head.log_scale, math.log(0.5), math.log(0.5), math.log(0.5))
    actions = torch.tensor([[[1.0], [0.25], [1e6]]])
    mask = torch.tensor([[True, True, False]])
    loss = head.imitation_loss(rows(1), WORDS, actions, mask)
    # errors .5 and .25; surprises .5 / .5 + ln 1 and .25 / .5 + ln 1
    assert float(loss.detach()) == pytest.approx((0.5 + 1 + 0.25 + 0.5) / 2)
    empty = head.imitation_loss(rows(1), WORDS, actions, torch.zeros_like(mask))
    assert float(empty.detach()) == 0


def test_the_scale_learns_from_the_mean_but_does_not_move_it() -> None:
    """The mean's gradient is that of L1 alone, and what it reads gets none from the scale."""
    head, context = make(), rows(4).requires_grad_()
    actions = torch.randn(4, 3, 2)
    mask = torch.ones(4, 3, dtype=torch.bool)
    error = (head(context).mean - actions.flatten(1)).abs().mean()
    mean = list(head.trunk.parameters())
    alone = torch.autograd.grad(error, [context, *mean])
    whole = torch.autograd.grad(
        head.imitation_loss(context, WORDS, actions, mask), [context, *mean]
    )
    for one, other in zip(alone, whole, strict=True):
        torch.testing.assert_close(one, other)


def test_imitation_finds_median_and_spread() -> None:
    """On Laplace data the fit is the median, and b the mean distance from it."""
    head = make(action_dim=1, chunk=1)
    law = torch.distributions.Laplace(0.3, 0.1)
    actions = law.sample((2_000, 1, 1))
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    context = torch.zeros(2_000, CONTEXT)
    for _ in range(150):
        optimizer.zero_grad()
        head.imitation_loss(context, WORDS, actions, torch.ones(2_000, 1).bool()).backward()
        optimizer.step()
    found = head(context[:1])
    assert float(found.mean.detach()) == pytest.approx(0.3, abs=0.02)
    assert float(found.log_scale.exp().detach()) == pytest.approx(0.1, abs=0.015)
