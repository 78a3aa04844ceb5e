"""Flow matching, and denoising chains that have a likelihood.

Time tau runs from 0 (noise) to 1 (action) over S equal steps, ``delta = 1 / S``. Between noise
``eps ~ N(0, 1)`` and an action A lies ``A^tau = tau A + (1 - tau) eps``; the velocity
``v = E[A - eps | A^tau]`` carries one to the other along ``dA = v dtau`` (Lipman et al., 2022,
arXiv 2210.02747). Models with reversed time (t = 1 is noise) have ``t = 1 - tau`` and the opposite
sign of the velocity.

**An SDE with the same marginals.** From ``E[A | A^tau] = A^tau + (1 - tau) v`` follows
``E[eps | A^tau] = A^tau - tau v``, and with it the score of the distribution of ``A^tau``,

    score = -E[eps | A^tau] / (1 - tau) = -(A^tau - tau v) / (1 - tau).

By the Fokker-Planck equation ``dA = [v + sigma^2 / 2 * score] dtau + sigma dW`` then has the same
marginal distributions as the ODE for any sigma: the added drift cancels the diffusion. With
``sigma = a sqrt((1 - tau) / tau)`` this is the SDE of Flow-GRPO (Liu et al., 2025, arXiv
2505.05470, with reversed time) and of piRL's Flow-SDE (2025, arXiv 2510.25889).
Noise may be correlated between units: if eps and dW have the same covariance, it cancels between
score and diffusion, and nothing above changes.

Shapes: ``K`` units of a chunk come last, ``S`` steps before them, any axes before those.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vla_rl.functional.density import normal_entropy, normal_logprob


def grid(steps: int) -> Tensor:
    """Times ``[S + 1]`` from 0 to 1 in equal steps.

    Raises:
        ValueError: If there are less than 1.
    """
    if steps < 1:
        raise ValueError(f"a denoising chain needs at least 1 step, got {steps}")
    return torch.arange(steps + 1) / steps


def blend(actions: Tensor, noise: Tensor, tau: Tensor) -> Tensor:
    """``A^tau``, interpolated from noise (tau 0) to actions (tau 1); all arguments broadcast."""
    return tau * actions + (1 - tau) * noise


def matching_loss(velocity: Tensor, actions: Tensor, noise: Tensor, mask: Tensor) -> Tensor:
    """Conditional flow matching: mean squared error of the velocity against ``A - eps``.

    Args:
        velocity: ``[*, K]`` the network's prediction at ``A^tau``.
        actions: ``[*, K]`` A; any finite numbers where masked.
        noise: ``[*, K]`` eps.
        mask: ``[*, K]`` true for units that count.

    Returns:
        A scalar; 0 if no unit counts.
    """
    weight = mask.to(velocity.dtype).expand_as(velocity)
    error = ((velocity - (actions - noise)).square() * weight).sum()
    return error / weight.sum().clamp(min=1)


def sigma(tau: Tensor, level: float, steps: int) -> Tensor:
    """Diffusion ``a sqrt((1 - tau) / tau)`` at the beginning of a step.

    It diverges at tau = 0, where the denominator is replaced by the next grid point, ``1 / S``, as
    in Flow-GRPO, so that the first step adds noise of standard deviation a.

    Args:
        tau: ``[*]`` in [0, 1).
        level: a, at least 0; 0 gives the ODE.
        steps: S.
    """
    return level * ((1 - tau) / tau.clamp(min=1 / steps)).sqrt()


def sde_step(
    sample: Tensor, velocity: Tensor, tau: Tensor, diffusion: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Distribution of the next sample: one Euler-Maruyama step of the SDE above.

    Args:
        sample: ``[*, K]`` A^tau.
        velocity: ``[*, K]`` v(A^tau, tau).
        tau: Broadcasts, in [0, 1).
        diffusion: Broadcasts, :func:`sigma` of tau; where it is 0 this is the ODE's Euler step.
        steps: S.

    Returns:
        Mean ``[*, K]`` and standard deviation (of the shape of ``diffusion``).
    """
    score = -(sample - tau * velocity) / (1 - tau)
    mean = sample + (velocity + 0.5 * diffusion.square() * score) / steps
    return mean, diffusion / steps**0.5


def chain_logprob(chain: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of a chain: ``log N(A^0; 0, 1) + sum_k log N(A^(k+1); mean_k, std_k^2)``.

    There is one per unit; with independent noise they sum to the joint log-density.

    Args:
        chain: ``[*, S + 1, K]`` from noise to action.
        mean: ``[*, S, K]`` means of the next samples.
        log_std: Logarithms of their standard deviations; broadcasts to ``[*, S, K]``.

    Returns:
        ``[*, K]`` in nats.
    """
    first = chain[..., 0, :]
    start = normal_logprob(first, torch.zeros_like(first), torch.zeros_like(first))
    return start + normal_logprob(chain[..., 1:, :], mean, log_std).sum(-2)


def chain_entropy(log_std: Tensor) -> Tensor:
    """Entropy ``[*, K]`` of every unit of a chain with ``log_std`` ``[*, S, K]``, in nats."""
    start = normal_entropy(torch.zeros_like(log_std[..., 0, :]))
    return start + normal_entropy(log_std).sum(-2)
