"""Log-densities and entropies of the distributions of action heads, unit by unit.

**Correlated units.** Let every unit have a *normal score* e, the standard normal number of equal
quantile: ``(x - mean) / std`` for a normal unit, :func:`normal_of_laplace` for a Laplace one. If
the scores of the steps of a chunk are jointly normal with covariance C = L L' (ones on its
diagonal), the joint density is the product of the units' own densities times that of a Gaussian
copula. With ``z = L^-1 e`` it factorises into steps, each conditioned on the earlier ones:

    log p(x_t | x_0 .. x_(t-1)) = log p(x_t) + log N(z_t) - log L_tt - log N(e_t).

:func:`copula_logprob` returns the last three terms. Since L is triangular, their sum over the first
steps of a chunk is the joint density of those steps; their gradient reaches the means of earlier
steps.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
_FAR = 600.0  # scales from a Laplace mean; exp(-600) is still a normal float64


def normal_logprob(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of N(mean, std^2), in nats; all arguments broadcast."""
    z = (x - mean) * torch.exp(-log_std)
    return -0.5 * z.square() - log_std - _HALF_LOG_TWO_PI


def normal_entropy(log_std: Tensor) -> Tensor:
    """Entropy of a normal distribution, in nats."""
    return log_std + 0.5 * math.log(2 * math.pi * math.e)


def laplace_logprob(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-density ``-|x - mean| / b - log 2b`` of Laplace(mean, b), in nats; all broadcast."""
    return -(x - mean).abs() * torch.exp(-log_scale) - log_scale - math.log(2)


def laplace_entropy(log_scale: Tensor) -> Tensor:
    """Entropy ``1 + log 2b`` of a Laplace distribution, in nats."""
    return 1 + math.log(2) + log_scale


def laplace_of_normal(e: Tensor) -> Tensor:
    """Map standard normal numbers to Laplace(0, 1) ones of equal quantile, ``quantile(Phi(e))``.

    This is a Gaussian copula: correlated standard normals become correlated numbers whose marginal
    distribution is exactly Laplace. The tail is computed from ``log Phi(-|e|)``, so it is accurate
    far beyond the point where ``Phi(e)`` rounds to 1.
    """
    tail: Tensor = torch.special.log_ndtr(-e.abs())
    return -torch.sign(e) * (math.log(2) + tail)


def normal_of_laplace(u: Tensor) -> Tensor:
    """Map Laplace(0, 1) numbers to standard normal ones of equal quantile, with gradient.

    The inverse of :func:`laplace_of_normal`, accurate for any finite ``u``: where ``exp(-|u|)``
    underflows, the normal tail is inverted from its logarithm.
    """
    found: Tensor = _NormalOfLaplace.apply(u)  # type: ignore[no-untyped-call]
    return found


class _NormalOfLaplace(torch.autograd.Function):
    """``de / du`` is ``Phi(-|e|) / phi(e)``, Mills' ratio, which is smooth where the tail ends."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        """Start from the quantile or, in the tail, its expansion; then one Newton step."""
        tail = -u.double().abs() - math.log(2)
        near = -torch.special.ndtri(tail.clamp(min=-_FAR).exp())
        y = (-2 * tail - math.log(2 * math.pi)).clamp(min=math.e)
        e = torch.where(tail > -_FAR, near, (y - y.log()).sqrt())
        e = e + (torch.special.log_ndtr(-e) - tail) * _mills(e)
        ctx.save_for_backward(e)
        made: Tensor = torch.sign(u) * e
        return made.to(u.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        """Gradient through Mills' ratio."""
        (e,) = ctx.saved_tensors
        return gradient * _mills(e).to(gradient.dtype)


def _mills(e: Tensor) -> Tensor:
    """``Phi(-e) / phi(e)``."""
    ratio: Tensor = math.sqrt(math.pi / 2) * torch.special.erfcx(e / math.sqrt(2))
    return ratio


def copula_logprob(e: Tensor, whitening: Tensor, known: Tensor) -> Tensor:
    """Contribution of correlation to the log-densities of the steps of a chunk, in nats.

    Args:
        e: ``[*, H, A]`` normal scores of the units; those of one action dimension are correlated.
        whitening: ``[H, H]`` inverse ``L^-1`` of the Cholesky factor of their covariance given
            ``known``; lower triangular. With the identity and ``known`` 0 the result is exactly 0.
        known: ``[*, 1, A]`` mean of the scores, given what the density is conditioned on.

    Returns:
        ``[*, H, A]``, to be added to the marginal log-density of every unit.
    """
    z = whitening @ (e - known)
    return 0.5 * (e.square() - z.square()) + whitening.diagonal().log()[:, None]


def bounded(x: Tensor, low: float, high: float) -> Tensor:
    """Clamp to [low, high], but let gradient descent bring x back into the range.

    An ordinary clamp has no gradient outside the range, so a parameter that left it stays outside.
    Here a gradient is stopped only if descending along it would lead further out. If several rows
    share x, bound it before expanding it to rows, so that their gradients are summed first.
    """
    found: Tensor = _Bounded.apply(x, low, high)  # type: ignore[no-untyped-call]
    return found


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        """Clamp."""
        ctx.save_for_backward(x)
        ctx.range = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        """Stop a gradient whose descent, which moves x against it, would lead further out."""
        (x,), (low, high) = ctx.saved_tensors, ctx.range
        leaves = ((x < low) & (gradient > 0)) | ((x > high) & (gradient < 0))
        return gradient.masked_fill(leaves, 0.0), None, None
