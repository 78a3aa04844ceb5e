"""Baselines of groups: from the returns of episodes to advantages."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

RewardScale = Literal["group", "batch", "none"]

EQUAL = 1e-5  # a relative difference of returns below this is rounding


def group_relative(
    returns: Tensor,
    group: Tensor,
    scale_rewards: RewardScale = "group",
    epsilon: float = 1e-6,
    ddof: int = 1,
) -> Tensor:
    """Advantage of each episode relative to its group (GRPO, arXiv 2402.03300).

    ``A_i = (R_i - mean) / (std + epsilon)``. A group whose returns are all equal gets zeros.

    Args:
        returns: ``[N]`` total reward of each episode.
        group: ``[N]`` integer index of each episode's group.
        scale_rewards: Standard deviation of the ``group``, of the raw returns of the whole
            ``batch`` (Lite PPO, 2508.08221), or ``none`` (Dr. GRPO, 2503.20783).
        epsilon: Added to the standard deviation.
        ddof: 1 for the sample, 0 for the population standard deviation (as GFPO writes it).

    Returns:
        ``[N]`` advantages; they sum to zero in each group.

    Raises:
        ValueError: If a group has a single member, or ``scale_rewards`` is unknown.
    """
    index, size = group_numbers(group, returns.dtype)
    if bool((size < 2).any()):
        raise ValueError("group-relative advantages need at least 2 episodes in every group")
    centred = returns - (sum_by_group(returns, index) / size)[index]
    centred = torch.where(_contrast(returns, index), centred, torch.zeros_like(centred))
    if scale_rewards == "none":
        return centred
    if scale_rewards == "batch":
        return centred / (returns.std() + epsilon)
    if scale_rewards == "group":
        variance = sum_by_group(centred.square(), index) / (size - ddof)
        return centred / (variance.sqrt() + epsilon)[index]
    raise ValueError(f"unknown scale_rewards {scale_rewards!r}; allowed: group, batch, none")


def leave_one_out(returns: Tensor, group: Tensor) -> Tensor:
    """Return of each episode minus the mean of the others of its group (RLOO, LOOP).

    ``A_i = R_i - mean_{j != i} R_j``; not divided by a standard deviation and not whitened.

    Args:
        returns: ``[N]`` total reward of each episode.
        group: ``[N]`` integer index of each episode's group.

    Returns:
        ``[N]`` advantages; they sum to zero in each group.

    Raises:
        ValueError: If a group has a single member, for which no baseline exists.
    """
    index, size = group_numbers(group, returns.dtype)
    if bool((size < 2).any()):
        raise ValueError("leave-one-out needs at least 2 episodes in every group")
    others = (sum_by_group(returns, index)[index] - returns) / (size[index] - 1)
    return torch.where(_contrast(returns, index), returns - others, torch.zeros_like(returns))


def length_weighted_baseline(returns: Tensor, lengths: Tensor, group: Tensor) -> Tensor:
    """Return minus the length-weighted mean of the group (OPO, arXiv 2505.23585).

    Args:
        returns: ``[N]`` total reward of each episode.
        lengths: ``[N]`` executed units of each episode.
        group: ``[N]`` integer index of each episode's group.
    """
    index, _ = group_numbers(group, returns.dtype)
    lengths = lengths.to(returns.dtype)
    return returns - (sum_by_group(returns * lengths, index) / sum_by_group(lengths, index))[index]


def whiten(values: Tensor, weight: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Normalise to zero weighted mean and unit weighted variance (REINFORCE++, 2501.03262).

    Args:
        values: ``[*]`` values to normalise.
        weight: ``[*]`` number of samples that each value counts as, for instance executed units.
        epsilon: Added to the (unbiased) variance.

    Returns:
        ``[*]``; zeros if all values of positive weight are equal up to rounding.
    """
    total = weight.sum()
    mean = (weight * values).sum() / total
    variance = (weight * (values - mean).square()).sum() / (total - 1).clamp(min=1)
    counted = values[weight > 0]
    if not has_contrast(counted):
        return torch.zeros_like(values)
    return (values - mean) * torch.rsqrt(variance + epsilon)


def has_contrast(returns: Tensor, size: float | None = None) -> bool:
    """Whether returns differ by more than floating-point rounding.

    The tolerance is relative: a difference of 1e-5 counts for returns of 1e-4, and one of 1e-3 does
    not for returns of 1000.

    Args:
        returns: ``[n]``; without any there is no contrast.
        size: Magnitude that the tolerance is relative to, for returns that are sums of larger
            numbers; None for the largest return.
    """
    if not len(returns):
        return False
    spread = returns.max() - returns.min()
    return bool(spread > EQUAL * (float(returns.abs().max()) if size is None else size))


def group_numbers(group: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Group indices renumbered from 0, and the size of each group."""
    _, index = torch.unique(group, return_inverse=True)
    return index, torch.bincount(index).to(dtype)


def sum_by_group(values: Tensor, index: Tensor) -> Tensor:
    """Sums ``[G]`` of values ``[N]`` over the groups that ``index`` ``[N]`` numbers."""
    out = torch.zeros(int(index.max()) + 1, dtype=values.dtype)
    return out.index_add_(0, index, values)


def _contrast(returns: Tensor, index: Tensor) -> Tensor:
    """For each episode, whether its group has contrast (:func:`has_contrast`)."""

    def extreme(values: Tensor, which: str) -> Tensor:
        out = torch.zeros(int(index.max()) + 1, dtype=returns.dtype)
        return out.scatter_reduce_(0, index, values, which, include_self=False)

    spread = extreme(returns, "amax") - extreme(returns, "amin")
    return (spread > EQUAL * extreme(returns.abs(), "amax"))[index]
