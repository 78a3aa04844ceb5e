"""Flow matching and its SDE: numbers by hand, and marginals where the velocity is known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from vla_rl.functional import density, flow


def test_the_grid_runs_from_noise_to_action():
    assert flow.grid(4).tolist() == [0, 0.25, 0.5, 0.75, 1]
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        flow.grid(0)


def test_sigma_by_hand():
    # .5 sqrt((1 - tau) / tau) at 1/4, 1/2, 3/4; at 0 the denominator is 1/4
    found = flow.sigma(flow.grid(4)[:-1], 0.5, 4)
    np.testing.assert_allclose(found, [1.0, 0.866025, 0.5, 0.288675], atol=1e-6)
    assert flow.sigma(flow.grid(4)[:-1], 0.0, 4).tolist() == [0, 0, 0, 0]


def test_an_sde_step_by_hand():
    # A = .6, v = .8, tau = .25, sigma = .5, delta = .25: score = -(.6 - .25 * .8) / .75 = -.533333,
    # mean = .6 + (.8 - .125 * .533333) * .25 = .783333, std = .5 * .5
    mean, std = flow.sde_step(
        torch.tensor([0.6]), torch.tensor([0.8]), torch.tensor(0.25), torch.tensor(0.5), 4
    )
    assert float(mean) == pytest.approx(0.783333, abs=1e-6)
    assert float(std) == pytest.approx(0.25)


def test_without_diffusion_it_is_the_odes_euler_step():
    sample, velocity = torch.randn(2, 3), torch.randn(2, 3)
    mean, std = flow.sde_step(sample, velocity, torch.tensor(0.6), torch.tensor(0.0), 5)
    torch.testing.assert_close(mean, sample + velocity / 5)
    assert float(std) == 0


def test_a_chains_logprob_by_hand():
    chain = torch.tensor([[1.0], [0.5], [0.2]])  # A^0, A^1/2, A^1 of one unit
    mean, log_std = torch.tensor([[0.3], [0.2]]), torch.tensor([[0.2], [0.5]]).log()
    # start: -1/2; first step: one deviation, -1/2 - ln .2; second: none, -ln .5; 3 * 1/2 ln 2 pi
    expected = -0.5 - 0.5 + 1.609438 + 0.693147 - 3 * 0.918939
    assert float(flow.chain_logprob(chain, mean, log_std)) == pytest.approx(expected, abs=1e-5)
    # 3 * 1/2 ln(2 pi e) + ln 1 + ln .2 + ln .5
    entropy = 3 * 1.418939 - 1.609438 - 0.693147
    assert float(flow.chain_entropy(log_std)) == pytest.approx(entropy, abs=1e-5)


def test_matching_loss_by_hand():
    # errors against A - eps: 1 - (.5 - -.5) = 0, 2 - (1 - 0) = 1, the last one is masked
    loss = flow.matching_loss(
        torch.tensor([1.0, 2.0, 7.0]),
        torch.tensor([0.5, 1.0, 1e6]),
        torch.tensor([-0.5, 0.0, 0.0]),
        torch.tensor([True, True, False]),
    )
    assert float(loss) == pytest.approx(0.5)
    nothing = flow.matching_loss(*[torch.ones(3)] * 3, torch.zeros(3, dtype=torch.bool))
    assert float(nothing) == 0


# ------------------------------------------------------------- an SDE with the ODE's marginals

MEAN, STD = 0.4, 0.15
"""The data: N(.4, .15^2)."""


def exact_velocity(sample: Tensor, tau: float) -> Tensor:
    """E[A - eps | A^tau] for normal data, from the joint normal law of (A - eps, A^tau)."""
    spread = tau**2 * STD**2 + (1 - tau) ** 2
    together = tau * STD**2 - (1 - tau)
    return MEAN + together / spread * (sample - tau * MEAN)


def marginal(tau: float) -> tuple[float, float]:
    """Mean and deviation of A^tau."""
    return tau * MEAN, math.sqrt(tau**2 * STD**2 + (1 - tau) ** 2)


def run(level: float, steps: int, move=flow.sde_step, count: int = 20_000) -> dict[float, Tensor]:
    """Samples of the chain at a few times."""
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(count, generator=generator)
    seen = {}
    for tau in flow.grid(steps)[:-1]:
        diffusion = flow.sigma(tau, level, steps)
        velocity = exact_velocity(sample, float(tau))
        mean, std = move(sample, velocity, tau, diffusion, steps)
        sample = mean + std * torch.randn(count, generator=generator)
        seen[round(float(tau) + 1 / steps, 6)] = sample
    return seen


def worst_error(seen: dict[float, Tensor]) -> float:
    """Largest error of mean or deviation over a few times."""
    errors = []
    for tau in (0.25, 0.5, 0.75, 1.0):
        mean, std = marginal(tau)
        errors += [abs(float(seen[tau].mean()) - mean), abs(float(seen[tau].std()) - std)]
    return max(errors)


def opposite_time(sample, velocity, tau, diffusion, steps):
    """The formula as papers print it for t = 1 - tau, read with tau: what must not happen."""
    drift = velocity + diffusion**2 / (2 * tau.clamp(min=1 / steps)) * (
        sample + (1 - tau) * velocity
    )
    return sample + drift / steps, diffusion / steps**0.5


def without_score(sample, velocity, tau, diffusion, steps):
    return sample + velocity / steps, diffusion / steps**0.5


@pytest.mark.parametrize("level", [0.0, 0.2, 0.5, 1.0])
def test_the_sde_has_the_marginals_of_the_ode_and_of_the_data(level):
    assert worst_error(run(level, 400)) < 0.015


@pytest.mark.parametrize("wrong", [opposite_time, without_score])
def test_other_drifts_do_not(wrong):
    assert not worst_error(run(0.5, 400, wrong)) < 0.05


def test_the_last_step_adds_about_the_level_over_the_number_of_steps():
    """Nothing takes that away again: 4 steps at .5 leave at least .144 in every action."""
    last = flow.sigma(torch.tensor(0.75), 0.5, 4) / 2
    assert float(last) == pytest.approx(0.5 / 4 / math.sqrt(0.75), abs=1e-6)


def test_correlated_noise_keeps_the_marginals_too():
    """Source and diffusion share one covariance; so does then every A^tau, if the data has it."""
    covariance = torch.tensor([[1.0, 0.7], [0.7, 1.0]])
    factor = torch.linalg.cholesky(covariance)
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(20_000, 2, generator=generator) @ factor.T
    for tau in flow.grid(200)[:-1]:
        diffusion = flow.sigma(tau, 0.5, 200)
        mean, std = flow.sde_step(sample, exact_velocity(sample, float(tau)), tau, diffusion, 200)
        sample = mean + std * torch.randn(20_000, 2, generator=generator) @ factor.T
    np.testing.assert_allclose(np.cov(sample.T), STD**2 * covariance, atol=0.002)


def test_a_chains_logprob_is_the_joint_density():
    """Against a normal law of all samples at once, for a linear velocity."""
    level, steps = 0.5, 3
    shift, matrix, noise = [torch.zeros(1)], [torch.ones(1, 4)], []
    matrix[0][0, 1:] = 0  # A^0 is the first of 4 independent standard normals
    for k, tau in enumerate(flow.grid(steps)[:-1]):
        diffusion = flow.sigma(tau, level, steps)
        at = lambda x, tau=tau, d=diffusion: flow.sde_step(  # noqa: E731
            x, exact_velocity(x, float(tau)), tau, d, steps
        )
        offset, std = at(torch.zeros(1))
        slope = at(torch.ones(1))[0] - offset
        fresh = torch.zeros(1, 4)
        fresh[0, k + 1] = std
        shift.append(slope * shift[-1] + offset)
        matrix.append(slope * matrix[-1] + fresh)
        noise.append(std)
    spread = torch.cat(matrix)
    joint = torch.distributions.MultivariateNormal(torch.cat(shift), spread @ spread.T)
    chain = joint.sample((5,))
    taus = flow.grid(steps)[:-1].view(1, -1, 1)
    velocity = torch.cat([exact_velocity(chain[:, k : k + 1], k / steps) for k in range(steps)], 1)
    mean, std = flow.sde_step(
        chain[:, :-1, None], velocity[..., None], taus, flow.sigma(taus, level, steps), steps
    )
    found = flow.chain_logprob(chain[..., None], mean, std.log())
    torch.testing.assert_close(found[:, 0], joint.log_prob(chain), atol=1e-4, rtol=1e-4)


def test_densities_broadcast():
    log_std = torch.zeros(1, 3, 1)
    chain, mean = torch.randn(2, 4, 5), torch.randn(2, 3, 5)
    expected = density.normal_logprob(chain[:, 1:], mean, torch.zeros(2, 3, 5)).sum(1)
    start = density.normal_logprob(chain[:, 0], torch.zeros(5), torch.zeros(5))
    torch.testing.assert_close(flow.chain_logprob(chain, mean, log_std), start + expected)
