"""Log-densities and entropies of the laws that action heads draw from, unit by unit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def normal_logprob(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of N(mean, std^2), in nats; all arguments broadcast."""
    z = (x - mean) * torch.exp(-log_std)
    return -0.5 * z.square() - log_std - _HALF_LOG_TWO_PI


def normal_entropy(log_std: Tensor) -> Tensor:
    """Entropy of a normal law, in nats."""
    return log_std + 0.5 * math.log(2 * math.pi * math.e)


def laplace_logprob(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-density ``-|x - mean| / b - log 2b`` of Laplace(mean, b), in nats; all broadcast."""
    return -(x - mean).abs() * torch.exp(-log_scale) - log_scale - math.log(2)


def laplace_entropy(log_scale: Tensor) -> Tensor:
    """Entropy ``1 + log 2b`` of a Laplace law, in nats."""
    return 1 + math.log(2) + log_scale


def laplace_of_normal(e: Tensor) -> Tensor:
    """Laplace(0, 1) numbers that rank as standard normal ones do: ``quantile(Phi(e))``.

    A Gaussian copula: correlated standard normals become Laplace numbers whose law, one by one, is
    exact. The tail is taken from ``log Phi(-|e|)``, so it is right far beyond the point where
    ``Phi(e)`` rounds to 1.
    """
    tail: Tensor = torch.special.log_ndtr(-e.abs())
    return -torch.sign(e) * (math.log(2) + tail)
