"""Rewards to go and values of a critic: advantages of single decisions, and the critic's loss."""

from __future__ import annotations

import torch
from torch import Tensor

from vla_rl.functional.group_baselines import group_numbers, has_contrast, sum_by_group


def whiten_advantages(advantage: Tensor, valid: Tensor, floor: float) -> Tensor:
    """Normalise the advantages of a batch to zero mean and unit variance, with a floor.

    Args:
        advantage: ``[N, T]``.
        valid: ``[N, T]`` bool, true for decisions that were made.
        floor: Smallest standard deviation to divide by, in units of the advantages, so that a batch
            whose advantages are only errors of the critic is not magnified.

    Returns:
        ``[N, T]``, zero after the end of an episode.
    """
    counted = advantage[valid]
    spread = max(float(counted.std()) if len(counted) > 1 else 0.0, floor)
    if spread == 0 or not has_contrast(counted):
        return torch.zeros_like(advantage)
    white = (advantage - counted.mean()) / spread
    return torch.where(valid, white, torch.zeros_like(white))


def returns_to_go(
    reward: Tensor,
    gamma: float = 1.0,
    final_value: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Discounted sum of the current and all later rewards.

    Args:
        reward: ``[N, T]``, zero after the end of an episode.
        gamma: Discount per decision.
        final_value: ``[N]`` value after the last decision; None for 0.
        valid: ``[N, T]`` bool, true for decisions that were made; needed for a final value.
    """
    out = torch.zeros_like(reward)
    after = torch.zeros_like(reward[:, 0]) if final_value is None else final_value
    for t in reversed(range(reward.shape[1])):
        now = reward[:, t] + gamma * after
        # Going backwards, padding comes first: it carries the final value to the last decision.
        after = now if valid is None else torch.where(valid[:, t], now, after)
        out[:, t] = now if valid is None else torch.where(valid[:, t], now, torch.zeros_like(now))
    return out


def process_supervision(
    reward: Tensor, scored: Tensor, group: Tensor, epsilon: float = 1e-6, ddof: int = 1
) -> Tensor:
    """Sum of normalised rewards from each step on, over the group's steps (GRPO, section 4.1.3).

    Args:
        reward: ``[N, T]`` reward of each step.
        scored: ``[N, T]`` bool, true where a step reward was given.
        group: ``[N]`` integer index of each episode's group.
        epsilon: Added to the standard deviation.
        ddof: 1 for the sample, 0 for the population standard deviation.

    Returns:
        ``[N, T]`` advantages.
    """
    index, _ = group_numbers(group, reward.dtype)
    kept = torch.where(scored, reward, torch.zeros_like(reward))
    count = sum_by_group(scored.sum(1).to(reward.dtype), index)
    mean = (sum_by_group(kept.sum(1), index) / count.clamp(min=1))[index][:, None]
    centred = torch.where(scored, reward - mean, torch.zeros_like(reward))
    variance = sum_by_group(centred.square().sum(1), index) / (count - ddof).clamp(min=1)
    return returns_to_go(centred / (variance.sqrt() + epsilon)[index][:, None])


def generalised_advantage(
    reward: Tensor,
    value: Tensor,
    final_value: Tensor,
    valid: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Generalised advantage estimation (Schulman et al., arXiv 1506.02438, eq. 16).

    Args:
        reward: ``[N, T]`` reward of each decision.
        value: ``[N, T]`` critic estimate at each decision.
        final_value: ``[N]`` critic estimate *after* the last decision of an episode that the time
            limit cut; 0 for one that terminated. This distinguishes the two.
        valid: ``[N, T]`` bool, true for decisions that were made.
        gamma: Discount per decision.
        gae_lambda: Trade-off between bias (0) and variance (1).

    Returns:
        ``[N, T]`` advantages, zero after the end; plus ``value`` they are the critic's targets.
    """
    out = torch.zeros_like(reward)
    after_value, after = final_value, torch.zeros_like(final_value)
    for t in reversed(range(reward.shape[1])):
        delta = reward[:, t] + gamma * after_value - value[:, t]
        now = delta + gamma * gae_lambda * after
        out[:, t] = torch.where(valid[:, t], now, torch.zeros_like(now))
        # Going backwards, padding comes first: it carries the final value to the last decision.
        after = torch.where(valid[:, t], now, after)
        after_value = torch.where(valid[:, t], value[:, t], after_value)
    return out


def clipped_value_loss(
    value: Tensor, old_value: Tensor, target: Tensor, cliprange_value: float
) -> Tensor:
    """Squared error of the critic, clipped around the old estimate (PPO2).

    ``max((V - R)^2, (clip(V, V_old +- c) - R)^2) / 2`` for every decision.

    Args:
        value: ``[*]`` with gradient.
        old_value: ``[*]`` stored at acting.
        target: ``[*]`` return to fit.
        cliprange_value: c, in the units of ``value``; 0 for the plain squared error.
    """
    plain = (value - target).square()
    if cliprange_value == 0:
        return plain / 2
    near = old_value + (value - old_value).clamp(-cliprange_value, cliprange_value)
    return torch.maximum(plain, (near - target).square()) / 2
