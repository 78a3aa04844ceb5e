"""The mathematics of the algorithms as pure functions of tensors.

No class, no state, nothing of ours imported: every function can be checked by hand. Axes as in
:mod:`vla_rl.types`; everything is float32 (or wider) and masks are boolean.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

RatioLevel = Literal["token", "action", "chunk"]
Aggregation = Literal["seq-mean-token-mean", "token-mean", "seq-mean-token-sum"]

LOG_RATIO_LIMIT = 20.0  # exp(20) is finite in float32; beyond it a ratio carries no information


def leave_one_out(returns: Tensor, group: Tensor) -> Tensor:
    """Advantage of each episode over the mean of the others of its group (RLOO, LOOP).

    ``A_i = R_i - mean_{j != i} R_j``; neither divided by a standard deviation nor whitened.

    Args:
        returns: ``[N]`` total reward of each episode.
        group: ``[N]`` integer group of each episode.

    Returns:
        ``[N]`` advantages; they sum to zero in each group.

    Raises:
        ValueError: If a group has a single member, for which no baseline exists.
    """
    index = group - group.min()
    size = torch.zeros(int(index.max()) + 1, dtype=returns.dtype).index_add_(
        0, index, torch.ones_like(returns)
    )
    if bool((size[index] < 2).any()):
        raise ValueError("leave-one-out needs at least 2 episodes in every group")
    total = torch.zeros_like(size).index_add_(0, index, returns)
    others = (total[index] - returns) / (size[index] - 1)
    return returns - others


def at_level(
    logprob: Tensor, mask: Tensor, horizon: int, level: RatioLevel
) -> tuple[Tensor, Tensor]:
    """Sum log-probs of single units to the level at which the ratio is taken.

    Args:
        logprob: ``[*, K]`` log-probs of single units.
        mask: ``[*, K]`` true for executed units.
        horizon: H; ``K`` is a multiple of it.
        level: ``token`` keeps the K units, ``action`` sums the units of one low-level action
            (``[*, H]``), ``chunk`` sums a whole decision (``[*, 1]``).

    Returns:
        Log-probs and mask at that level; an action counts if any of its units was executed.

    Raises:
        ValueError: If the level is unknown.
    """
    masked = torch.where(mask, logprob, torch.zeros_like(logprob))
    if level == "token":
        return masked, mask
    if level == "action":
        shape = (*logprob.shape[:-1], horizon, logprob.shape[-1] // horizon)
        return masked.reshape(shape).sum(-1), mask.reshape(shape).any(-1)
    if level == "chunk":
        return masked.sum(-1, keepdim=True), mask.any(-1, keepdim=True)
    raise ValueError(f"unknown ratio level {level!r}; allowed: token, action, chunk")


class Surrogate(NamedTuple):
    """Unit-wise policy loss and what to log of it.

    Attributes:
        loss: ``[*]`` per unit, to be minimised; zero where masked.
        clipped: ``[*]`` bool, units whose gradient the clip removed.
        kl: ``[*]`` k3 estimate of KL(old || new) per unit, non-negative (Schulman, 2020).
    """

    loss: Tensor
    clipped: Tensor
    kl: Tensor


def clipped_surrogate(
    logprob: Tensor,
    old_logprob: Tensor,
    advantage: Tensor,
    mask: Tensor,
    clip_ratio_low: float,
    clip_ratio_high: float,
) -> Surrogate:
    """PPO's clipped objective per unit (Schulman et al. 2017, eq. 7) with two clip ranges.

    Args:
        logprob: ``[*]`` under the policy being trained, with gradient.
        old_logprob: ``[*]`` stored at acting.
        advantage: broadcastable to ``[*]``.
        mask: ``[*]`` true for units that count.
        clip_ratio_low: Ratios below ``1 - clip_ratio_low`` earn nothing for negative advantages.
        clip_ratio_high: Ratios above ``1 + clip_ratio_high`` earn nothing for positive ones.
    """
    log_ratio = (logprob - old_logprob).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    log_ratio = torch.where(mask, log_ratio, torch.zeros_like(log_ratio))
    ratio = log_ratio.exp()
    bounded = ratio.clamp(1 - clip_ratio_low, 1 + clip_ratio_high)
    plain, limited = -advantage * ratio, -advantage * bounded
    loss = torch.where(mask, torch.maximum(plain, limited), torch.zeros_like(plain))
    with torch.no_grad():
        clipped = mask & (limited > plain)
        kl = torch.where(mask, ratio - 1 - log_ratio, torch.zeros_like(ratio))
    return Surrogate(loss, clipped, kl)


def unit_weights(mask: Tensor, mode: Aggregation) -> Tensor:
    """Weights w such that ``(w * loss).sum()`` is the aggregated loss of the whole batch.

    Because they are made once from the whole batch, any split into minibatches adds up to it.

    Args:
        mask: ``[N, T, U]`` true for units that count.
        mode: ``seq-mean-token-mean`` (GRPO, LOOP: mean over units of an episode, then over
            episodes; the only mode in which long failures do not push probability down on balance),
            ``token-mean`` (DAPO) or ``seq-mean-token-sum`` (REINFORCE).

    Returns:
        ``[N, T, U]`` float weights, zero where masked.

    Raises:
        ValueError: If the mode is unknown.
    """
    counts = mask.flatten(1).sum(1).clamp(min=1).to(torch.float32)
    episodes = float(len(mask))
    if mode == "seq-mean-token-mean":
        weight = 1.0 / (episodes * counts)
    elif mode == "token-mean":
        weight = torch.full_like(counts, 1.0 / float(counts.sum()))
    elif mode == "seq-mean-token-sum":
        weight = torch.full_like(counts, 1.0 / episodes)
    else:
        raise ValueError(
            f"unknown loss_agg_mode {mode!r}; "
            "allowed: seq-mean-token-mean, token-mean, seq-mean-token-sum"
        )
    return weight[:, None, None] * mask
