"""Densities and entropies against numbers worked by hand and against torch's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

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
