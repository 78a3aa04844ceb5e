"""Denoising diffusion: chains whose steps are normal distributions.

A sample ``x_t = sqrt(alpha_t) x_0 + sqrt(1 - alpha_t) eps`` is a mixture of an action ``x_0`` and
noise; ``alpha`` (the cumulative product, "alpha bar" in papers) rises to 1 as a chain denoises.
Given a network's prediction of ``x_0``, the step from ``alpha`` to ``alpha_next`` has the posterior

    N(sqrt(alpha_next) x_0 + sqrt(1 - alpha_next - variance) eps, variance),
    variance = (1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next),

where ``eps`` is the noise that the prediction implies. This is a step of DDPM (Ho et al., 2020,
arXiv 2006.11239), or of DDIM with eta = 1 where steps are skipped (Song et al., 2020, arXiv
2010.02502); with variance 0 it is the deterministic step of DDIM. DPPO (Ren et al., 2024, arXiv
2409.00588) treats every step as an action and uses the sum of their log-densities as likelihood.

All shapes broadcast.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Step(NamedTuple):
    """Distribution ``N(mean, std^2)`` of the next sample; ``still`` is DDIM's noiseless step."""

    mean: Tensor
    std: Tensor
    still: Tensor


def clean(sample: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """``x_0`` from a sample and its noise."""
    return (sample - (1 - alpha).sqrt() * noise) / alpha.sqrt()


def noised(action: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """``x_t`` from an action and noise."""
    return alpha.sqrt() * action + (1 - alpha).sqrt() * noise


def step(sample: Tensor, action: Tensor, alpha: Tensor, alpha_next: Tensor) -> Step:
    """One step of a chain.

    Args:
        sample: ``x_t``.
        action: ``x_0`` as the network predicts it.
        alpha: ``alpha`` of the sample, in (0, 1).
        alpha_next: ``alpha`` of the next sample, in (alpha, 1]; at 1 the standard deviation is 0.
    """
    noise = (sample - alpha.sqrt() * action) / (1 - alpha).sqrt()
    variance = (1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)
    mean = alpha_next.sqrt() * action + (1 - alpha_next - variance).clamp(min=0).sqrt() * noise
    still = alpha_next.sqrt() * action + (1 - alpha_next).sqrt() * noise
    return Step(mean, variance.sqrt(), still)
