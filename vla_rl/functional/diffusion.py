"""Denoising diffusion: chains whose steps are normal laws.

A sample ``x_t = sqrt(alpha_t) x_0 + sqrt(1 - alpha_t) eps`` holds a share of an action ``x_0`` and
of noise; ``alpha`` (the cumulative product, "alpha bar" in papers) rises to 1 as a chain denoises.
Given what a network says ``x_0`` is, the step from ``alpha`` to ``alpha_next`` has the posterior

    N(sqrt(alpha_next) x_0 + sqrt(1 - alpha_next - variance) eps, variance),
    variance = (1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next),

with ``eps`` what is left of the sample. This is a step of DDPM (Ho et al., 2020, arXiv 2006.11239),
and of DDIM with eta = 1 where steps are left out (Song et al., 2020, arXiv 2010.02502); without the
variance it is DDIM's step without noise. DPPO (Ren et al., 2024, arXiv 2409.00588) takes every step
for an action of its own and the sum of their log-densities for a likelihood.

Any shapes that broadcast.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Step(NamedTuple):
    """The law of the next sample, ``N(mean, std^2)``, and where DDIM goes without noise."""

    mean: Tensor
    std: Tensor
    still: Tensor


def clean(sample: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """``x_0`` given the noise that is in a sample."""
    return (sample - (1 - alpha).sqrt() * noise) / alpha.sqrt()


def noised(action: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """``x_t``, a share of an action and of noise."""
    return alpha.sqrt() * action + (1 - alpha).sqrt() * noise


def step(sample: Tensor, action: Tensor, alpha: Tensor, alpha_next: Tensor) -> Step:
    """One step of a chain.

    Args:
        sample: ``x_t``.
        action: ``x_0`` as the network says.
        alpha: Of the sample, in (0, 1).
        alpha_next: Of the next one, in (alpha, 1]; at 1 the standard deviation is 0.
    """
    noise = (sample - alpha.sqrt() * action) / (1 - alpha).sqrt()
    variance = (1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)
    mean = alpha_next.sqrt() * action + (1 - alpha_next - variance).clamp(min=0).sqrt() * noise
    still = alpha_next.sqrt() * action + (1 - alpha_next).sqrt() * noise
    return Step(mean, variance.sqrt(), still)
