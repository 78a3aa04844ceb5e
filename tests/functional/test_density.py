"""Densities and entropies against numbers worked by hand and against other libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from vla_rl.functional import density


def test_normal_by_hand():
    # 1 deviation from the mean with std .5: -1/2 - ln .5 - 1/2 ln 2 pi
    found = density.normal_logprob(
        torch.tensor([0.7]), torch.tensor([0.2]), torch.tensor([math.log(0.5)])
    )
    assert float(found) == pytest.approx(-0.5 + 0.693147 - 0.918939, abs=1e-5)
    assert float(density.normal_entropy(torch.tensor(math.log(0.5)))) == pytest.approx(
        1.418939 - 0.693147, abs=1e-5
    )


def test_laplace_by_hand():
    # 2 scales from the mean with b = .25: -2 - ln .5
    x, mean, log_scale = torch.tensor([0.3]), torch.tensor([0.8]), torch.tensor([math.log(0.25)])
    assert float(density.laplace_logprob(x, mean, log_scale)) == pytest.approx(-2 + 0.693147)
    assert float(density.laplace_entropy(log_scale)) == pytest.approx(1 - 0.693147)


def test_laplace_is_torchs():
    mean, log_scale = torch.randn(50), 0.3 * torch.randn(50)
    x = mean + torch.randn(50)
    law = torch.distributions.Laplace(mean, log_scale.exp())
    torch.testing.assert_close(density.laplace_logprob(x, mean, log_scale), law.log_prob(x))
    torch.testing.assert_close(density.laplace_entropy(log_scale), law.entropy())


def test_ranks_of_a_normal_become_laplace_numbers():
    # Phi(.674490) = .75, whose Laplace quantile is -ln(2 * .25) = ln 2; the median is 0
    e = torch.tensor([0.0, 0.67449, -0.67449])
    torch.testing.assert_close(
        density.laplace_of_normal(e), torch.tensor([0.0, math.log(2), -math.log(2)])
    )
    many = density.laplace_of_normal(torch.randn(200_000, generator=torch.manual_seed(0)))
    assert float(many.abs().mean()) == pytest.approx(1, abs=0.01)
    assert float(many.square().mean()) == pytest.approx(2, abs=0.05)
    quantiles = torch.quantile(many[:100_000], torch.tensor([0.1, 0.5, 0.9]))
    np.testing.assert_allclose(quantiles, [-math.log(5), 0, math.log(5)], atol=0.03)


def test_far_tails_stay_finite():
    # In float32 Phi(9) is 1, and -log(1 - 1) would be infinite: the tail is 1.1286e-19
    found = density.laplace_of_normal(torch.tensor([9.0, -9.0, 20.0]))
    assert torch.isfinite(found).all()
    assert float(found[0]) == pytest.approx(-math.log(2 * 1.1286e-19), rel=1e-4)
    assert float(found[1]) == -float(found[0])


# ----------------------------------------------------------------- from Laplace to normal numbers


def test_laplace_numbers_become_the_normal_ones_of_their_rank():
    # F(ln 2) = 1 - .5 / 2 = .75, whose normal quantile is .674490
    u = torch.tensor([0.0, math.log(2), -math.log(2)])
    torch.testing.assert_close(
        density.normal_of_laplace(u), torch.tensor([0.0, 0.67449, -0.67449]), atol=1e-6, rtol=0
    )
    e = torch.linspace(-30, 30, 121, dtype=torch.float64)
    torch.testing.assert_close(density.normal_of_laplace(density.laplace_of_normal(e)), e)
    u = torch.linspace(-20, 20, 81, dtype=torch.float64)
    expected = stats.norm.ppf(stats.laplace.cdf(u.numpy()[:41]))  # the upper half rounds to 1
    np.testing.assert_allclose(density.normal_of_laplace(u)[:41], expected, atol=1e-9)


def test_their_tails_have_values_and_gradients_at_any_distance():
    u = torch.tensor([599.0, 601.0, -1e4, 1e8], requires_grad=True)
    e = density.normal_of_laplace(u)
    e.sum().backward()
    found, slope = e.detach().double(), u.grad.double()
    tail = torch.special.log_ndtr(-found.abs())
    np.testing.assert_allclose(tail, -u.detach().double().abs() - math.log(2), rtol=1e-5)
    # Mills' ratio of e is about 1 / e
    np.testing.assert_allclose(slope * found.abs(), 1, atol=1e-3)


def test_their_gradient_is_the_quotient_of_the_densities():
    u = torch.tensor([-3.0, -0.5, 0.0, 0.2, 7.0], dtype=torch.float64, requires_grad=True)
    e = density.normal_of_laplace(u)
    (slope,) = torch.autograd.grad(e.sum(), u)
    given, made = u.detach().numpy(), e.detach().numpy()
    np.testing.assert_allclose(slope, stats.laplace.pdf(given) / stats.norm.pdf(made), rtol=1e-8)


# ---------------------------------------------------------------------------------- correlation


def test_two_correlated_units_by_hand():
    # C = [[1, .6], [.6, 1]]: L = [[1, 0], [.6, .8]], so e = (1, 1.4) has z = (1, (1.4 - .6) / .8)
    whitening = torch.tensor([[1.0, 0.0], [-0.75, 1.25]])
    e = torch.tensor([[1.0], [1.4]])
    found = density.copula_logprob(e, whitening, torch.zeros(1, 1))
    expected = [[0.0], [0.5 * (1.4**2 - 1.0**2) - math.log(0.8)]]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # A known mean of .2 leaves (.8, 1.2): z = (.8, (1.2 - .48) / .8 = .9)
    found = density.copula_logprob(e, whitening, torch.full((1, 1), 0.2))
    expected = [[0.5 * (1 - 0.64)], [0.5 * (1.96 - 0.81) - math.log(0.8)]]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_no_correlation_adds_exactly_nothing():
    e = 100 * torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0))
    assert not density.copula_logprob(e, torch.eye(3), torch.zeros(5, 1, 2)).any()


# --------------------------------------------------------------------------------------- bounds


def test_what_is_out_of_bounds_may_come_back_but_not_go_further():
    x = torch.tensor([-2.0, -2.0, 0.5, 3.0, 3.0], requires_grad=True)
    held = density.bounded(x, -1.0, 1.0)
    assert held.tolist() == [-1, -1, 0.5, 1, 1]
    # descent goes against the gradient: down, up, down, up, down
    held.backward(torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0]))
    assert x.grad.tolist() == [0, -1, 1, 0, 1]


def test_descent_leads_back_from_beyond_a_bound():
    x = torch.tensor([-3.0], requires_grad=True)
    optimizer = torch.optim.SGD([x], lr=0.5)
    for _ in range(40):
        optimizer.zero_grad()
        (density.bounded(x, -1.0, 1.0) - 0.5).square().sum().backward()
        optimizer.step()
    assert float(x.detach()) == pytest.approx(0.5, abs=1e-3)
