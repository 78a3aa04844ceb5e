"""The Gaussian head, by numbers worked by hand; its densities are in test_density_gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vla_rl.policies._heads.config import GaussianConfig, Size
from vla_rl.policies._heads.gaussian import GaussianHead

CONTEXT, TEXT = 6, 4


def make(action_dim: int = 2, **settings: Any) -> GaussianHead:
    torch.manual_seed(0)
    size = Size(settings.pop("chunk", 3), action_dim, CONTEXT, TEXT, hidden=(16,))
    return GaussianHead(GaussianConfig(**settings), size)


def last(head: GaussianHead) -> nn.Linear:
    """The layer that makes the mean."""
    layer = head.trunk[-1]
    assert isinstance(layer, nn.Linear)
    return layer


def rows(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    context = torch.randn(count, CONTEXT, generator=generator)
    return context, torch.randn(count, TEXT, generator=generator)


def keys(count: int) -> np.ndarray:
    return np.stack([np.arange(count), np.arange(count)], axis=1)


def test_logprob_and_entropy_by_hand() -> None:
    head = make(action_dim=1, chunk=2, std=0.5, rho=0.6, episode_share=0.19)
    with torch.no_grad():
        last(head).weight.zero_()
        last(head).bias.copy_(torch.tensor([0.2, -0.1]))
    logprob, entropy = head.score(*rows(1), torch.tensor([[0.7, -0.1]]))
    # one deviation from the mean, and none: -1/2 z^2 - ln .5 - 1/2 ln 2 pi = .693147 - .918939 ...
    np.testing.assert_allclose(logprob.detach(), [[-0.725791, -0.225791]], atol=1e-5)
    # 1/2 ln(2 pi e) + ln .5 = 1.418939 - .693147
    np.testing.assert_allclose(entropy.detach(), [[0.725791, 0.725791]], atol=1e-5)


def test_episode_logprob_by_hand() -> None:
    settings: dict[str, Any] = {"std": 0.5, "rho": 0.6, "episode_share": 0.36}
    head = make(action_dim=1, chunk=2, density="episode", **settings)
    with torch.no_grad():
        last(head).weight.zero_()
    # With c = .5, e less .6 c is 1.1 - .3 = .8, then .78 - .3 = .48. The rest of the noise has
    # deviation .8, and .8 * .8 = .64 once the step before is known, which makes .6 * .8 likely.
    logprob, entropy = head.score(*rows(1), torch.tensor([[0.55, 0.39, 0.5]]))
    first, second = math.log(0.5 * 0.8), math.log(0.5 * 0.64)
    np.testing.assert_allclose(
        logprob.detach(), [[-0.5 - first - 0.918939, 0 - second - 0.918939]], atol=1e-5
    )
    np.testing.assert_allclose(entropy.detach(), [[1.418939 + first, 1.418939 + second]], atol=1e-5)


def test_marginal_density_is_that_of_each_step() -> None:
    head = make(std=0.3)
    context, text = rows(5)
    with torch.inference_mode():
        mean = head(context, text).mean
        sample = head.sample(context, text, keys(5))
    assert torch.equal(sample.actions.flatten(1), sample.raw.clamp(-1, 1))
    law = torch.distributions.Normal(mean, 0.3)
    expected = law.log_prob(sample.raw)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(sample.logprob, expected)


def test_first_means_are_near_zero_and_actions_are_clipped() -> None:
    head = make(std=1.0)
    context, text = rows(100)
    assert float(head(context, text).mean.detach().abs().max()) < 0.1
    with torch.inference_mode():
        assert float(head.sample(context, text, keys(100)).actions.abs().max()) == 1


def test_the_deviation_may_follow_the_instruction() -> None:
    head = make(std=0.2, std_by_instruction=True)
    context, text = rows(4)
    np.testing.assert_allclose(head(context, text).log_std.exp().detach(), 0.2, rtol=1e-5)
    words = text.clone().requires_grad_()
    head(context, words).log_std.sum().backward()
    assert words.grad is None  # the deviation must not shape the instruction's embedding
    with torch.no_grad():
        assert head.std_of_text is not None
        head.std_of_text.weight.fill_(100.0)
    std = head(context, text).log_std.exp().detach()
    assert float(std.max()) == pytest.approx(1.0)
    assert float(std.min()) == pytest.approx(0.01)


def test_units_run_over_dimensions_first() -> None:
    """Unit ``t * A + a`` is dimension ``a`` of step ``t``, as masks of executed steps assume."""
    head = make(action_dim=2)
    with torch.no_grad():
        head.log_std.copy_(torch.tensor([-1.0, -2.0]))
        assert head(*rows(1)).log_std[0].tolist() == [-1, -2] * 3
        last(head).weight.zero_()
        last(head).bias.copy_(torch.arange(6) / 10)
        actions = head.sample(*rows(1), None).actions[0]
    torch.testing.assert_close(actions, torch.tensor([[0.0, 0.1], [0.2, 0.3], [0.4, 0.5]]))


def test_imitation_loss_by_hand() -> None:
    head = make(action_dim=2)
    with torch.no_grad():
        last(head).weight.zero_()
    actions = torch.tensor([[[1.0, 3.0], [2.0, 0.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, False]])
    loss = head.imitation_loss(*rows(1), actions, mask)
    assert float(loss.detach()) == pytest.approx((1 + 9 + 4 + 0) / 4)
    empty = head.imitation_loss(*rows(1), actions, torch.zeros(1, 3, dtype=torch.bool))
    assert float(empty.detach()) == 0


def test_a_deviation_may_leave_its_bounds_again() -> None:
    head = make(std=0.01)
    with torch.no_grad():
        head.log_std.sub_(1.0)
    assert torch.allclose(head(*rows(1)).log_std, torch.tensor(math.log(0.01)))
    head.score(*rows(4), torch.zeros(4, 6))[1].sum().backward()
    assert head.log_std.grad is not None
    assert not head.log_std.grad.any()  # descent on the entropy leads further out
    head.log_std.grad.zero_()
    (-head.score(*rows(4), torch.zeros(4, 6))[1].sum()).backward()
    assert head.log_std.grad.tolist() == [-12, -12]  # and on its negative back: 4 rows of 3 steps


def test_the_deviation_is_known_unless_it_follows_the_instruction() -> None:
    head = make(std=0.2)
    with torch.no_grad():
        head.log_std[1] = -50.0
    torch.testing.assert_close(head.deviation(), torch.tensor([0.2, 0.01]))
    assert head.deviations() == [head.log_std]
    worded = make(std_by_instruction=True)
    assert worded.deviation() is None
    assert len(worded.deviations()) == 3
