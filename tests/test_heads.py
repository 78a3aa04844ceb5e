"""The Gaussian head: numbers worked by hand, and both densities against brute force."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vla_rl.policies import _noise
from vla_rl.policies._gaussian import GaussianHead
from vla_rl.policies._heads import HeadConfig

CONTEXT, TEXT = 6, 4


def make(action_dim: int = 2, **settings: Any) -> GaussianHead:
    torch.manual_seed(0)
    config = HeadConfig(**{"chunk": 3, "hidden": (16,), **settings})
    return GaussianHead(config, CONTEXT, TEXT, action_dim)


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


def test_conditional_logprob_by_hand() -> None:
    settings: dict[str, Any] = {"std": 0.5, "rho": 0.6, "episode_share": 0.19}
    head = make(action_dim=1, chunk=2, density="conditional", **settings)
    with torch.no_grad():
        last(head).weight.zero_()
    # deviations .5 * .9 = .45 and .5 * .72 = .36; both samples lie one deviation off
    logprob, entropy = head.score(*rows(1), torch.tensor([[0.45, -0.36]]))
    np.testing.assert_allclose(
        logprob.detach(), [[-0.5 - math.log(0.45) - 0.918939, -0.5 - math.log(0.36) - 0.918939]],
        atol=1e-5,
    )  # fmt: skip
    np.testing.assert_allclose(
        entropy.detach(), [[1.418939 + math.log(0.45), 1.418939 + math.log(0.36)]], atol=1e-5
    )


def normal_logpdf(x: np.ndarray, covariance: np.ndarray) -> float:
    _, logdet = np.linalg.slogdet(2 * np.pi * covariance)
    return float(-0.5 * (logdet + x @ np.linalg.solve(covariance, x)))


def test_conditional_density_is_the_joint_one_given_the_episode() -> None:
    """Summed over a chunk, the log-probabilities are those of the correlated normal given c."""
    horizon, rho, share, std = 4, 0.7, 0.4, 0.2
    head = make(1, chunk=horizon, std=std, rho=rho, episode_share=share, density="conditional")
    context, text = rows(8)
    with torch.inference_mode():
        mean = head(context, text).mean.numpy()
        sample = head.sample(context, text, keys(8))
    executed = sample.actions.numpy()[..., 0]
    assert np.abs(executed).max() < 1  # nothing was clipped, so this is the sample
    episode, _ = _noise._normals(keys(8), horizon, 1)
    lag = np.abs(np.subtract.outer(np.arange(horizon), np.arange(horizon)))
    covariance = std**2 * (1 - share) * rho**lag
    for row in range(8):
        centred = executed[row] - mean[row] - std * math.sqrt(share) * episode[row]
        expected = normal_logpdf(centred, covariance)
        assert float(sample.logprob[row].sum()) == pytest.approx(expected, abs=1e-3)


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


def test_densities_share_their_actions_and_meet_without_correlation() -> None:
    context, text = rows(5)
    with torch.inference_mode():
        marginal = make().sample(context, text, keys(5))
        conditional = make(density="conditional").sample(context, text, keys(5))
        torch.testing.assert_close(marginal.actions, conditional.actions)
        assert not torch.allclose(marginal.raw, conditional.raw)
        free: dict[str, Any] = {"rho": 0.0, "episode_share": 0.0}
        one = make(**free).sample(context, text, keys(5))
        two = make(density="conditional", **free).sample(context, text, keys(5))
    for left, right in zip(one, two, strict=True):
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize("density", ["marginal", "conditional"])
def test_score_repeats_sample(density: str) -> None:
    head = make(density=density, std_by_instruction=True)
    with torch.no_grad():
        assert head.std_of_text is not None
        head.std_of_text.weight.normal_()
    context, text = rows(5)
    with torch.inference_mode():
        sample = head.sample(context, text, keys(5))
        greedy = head.sample(context, text, None)
    torch.testing.assert_close(head.score(context, text, sample.raw)[0], sample.logprob)
    torch.testing.assert_close(head.score(context, text, greedy.raw)[0], greedy.logprob)
    assert torch.equal(greedy.raw, head(context, text).mean)


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
