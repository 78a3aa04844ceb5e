"""GFPO: group filtered policy optimisation (arXiv 2508.09726).

Sample a larger group, but learn only from the k members that are best by some attribute: the
fewest steps, the shortest path, the smoothest motion. Success stays the reward; the attribute only
selects episodes. With adaptive difficulty, k shrinks for starts that have become easy.

The paper's rule, which keeps the k best of all, needs rewards that differ among those k. Success is
binary and failures run to the time limit, so the k fastest of a group are all successes, their
advantages are zero, and nothing is learned. Two rules fix that; attributes rank successes only:

- ``stratified``: keep successes and failures in the proportion of the group.
- ``full_group``: normalise advantages over the whole group, then keep every failure and the k best
  successes.

Differences from the paper: G = 16 and k = 8 (the paper's middle setting), and the mean over
episodes of means over units, for the reason given in `dapo`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vla_rl import functional as F
from vla_rl.learning import attributes
from vla_rl.learning.group_relative import GroupRelative
from vla_rl.learning.policy_gradient import Credit
from vla_rl.learning.settings import KLPlacement
from vla_rl.learning.update_state import UpdateState
from vla_rl.types import Bools, Group, RolloutBatch, Task

HISTORY = 512  # groups that define difficulty; older ones were played by a weaker policy
READY = 8  # groups needed before difficulty is estimated


@dataclass
class State(UpdateState):
    """Update state with the mean returns of the most recent groups."""

    history: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Algorithm(GroupRelative):
    """GRPO on the best members of larger groups."""

    group_size: int = 16
    """Rollouts from each start; filtering needs larger groups than GRPO."""
    num_remains_in_group: int = 8
    """Members of a group to learn from (k), at least 2 and below `group_size`."""
    metric: str = "steps"
    """Attribute to minimise: `decisions`, `steps`, `path_length`, `action_energy`, `jerk`,
    `gripper_toggles`, `surprise`, or the dotted path of a function."""
    order: Literal["lowest", "efficiency"] = "lowest"
    """Rank episodes by the `lowest` metric (the paper's shortest-k) or by `efficiency`, the return
    divided by the metric (the paper's token efficiency)."""
    retention: Literal["stratified", "full_group", "best"] = "stratified"
    """Rule that selects episodes: `stratified`, `full_group`, or `best`, the paper's own rule,
    which does not work with binary success."""
    adaptive: bool = False
    """Adaptive difficulty: choose the number of members to keep from `adaptive_sizes`."""
    adaptive_sizes: tuple[int, int, int, int] = (8, 8, 6, 4)
    """Members to keep of very hard, hard, medium and easy groups."""
    kl_coef: float = 0.001
    """Weight of the KL divergence from the starting policy."""
    kl_placement: KLPlacement = "loss"
    """Where the KL divergence is added: to the `loss`, to the `reward`, or `none`."""
    entropy_coef: float = 0.001
    """Weight of the entropy bonus."""
    clip_ratio_c: float = 3.0
    """Dual clip: largest ratio used with a negative advantage, above 1; 0 for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        attributes.named(self.metric)
        if self.adv_estimator != "grpo":
            raise ValueError(
                f"GFPO standardises over the members that are kept: adv_estimator must be 'grpo', "
                f"got {self.adv_estimator!r}"
            )
        sizes = self.adaptive_sizes if self.adaptive else (self.num_remains_in_group,)
        for size in sizes:
            if not 2 <= size < self.group_size:
                raise ValueError(
                    f"{'adaptive_sizes' if self.adaptive else 'num_remains_in_group'} {size} must "
                    f"be at least 2 and below group_size {self.group_size}: keeping all of a group "
                    "filters nothing"
                )

    def new_state(self, tasks: Sequence[Task]) -> State:
        """State of a run before its first group."""
        return State(**vars(super().new_state(tasks)))

    def observe(self, groups: Sequence[Group], state: State) -> None:
        """Record the difficulty of all starts, including those without contrast."""
        means = [float(np.mean([t.total_reward for t in group])) for group in groups]
        state.history = [*state.history, *means][-HISTORY:]

    def credit(self, batch: RolloutBatch, reward: Tensor, state: State) -> Credit:
        """Compute advantages of the kept members; the others are masked."""
        returns = reward.sum(1)
        group = torch.from_numpy(batch.group)
        attribute = attributes.named(self.metric)
        cost = np.array([attribute(t) for t in batch.episodes])
        kept, sizes = self._retain(batch, returns.numpy(), cost, state)
        compared = np.ones_like(kept) if self.retention == "full_group" else kept
        advantage = torch.zeros_like(returns)
        advantage[compared] = F.group_relative(
            returns[compared], group[compared], self.scale_rewards, ddof=0
        )
        advantage[~kept] = 0
        dead = [not bool(advantage[batch.group == g].any()) for g in np.unique(batch.group)]
        used = kept & ~np.array(dead)[batch.group]
        log = {
            "gfpo/k": float(np.mean(sizes)),
            "gfpo/kept_frac": float(kept.mean()),
            "gfpo/frac_groups_dead": float(np.mean(dead)),
            "gfpo/success_all": float(batch.success.mean()),
            "gfpo/success_kept": float(batch.success[kept].mean()),
            **{f"gfpo/{name}": value for name, value in _means(cost, batch.success, kept).items()},
        }
        return Credit(batch.only(used), advantage, log=log)

    def _retain(
        self, batch: RolloutBatch, returns: np.ndarray, cost: np.ndarray, state: State
    ) -> tuple[Bools, list[int]]:
        """Episodes to keep ``[N]``, and k of each group."""
        score = cost if self.order == "lowest" else -returns / np.maximum(cost, 1e-6)
        kept = np.zeros(len(batch), bool)
        sizes = []
        for g in np.unique(batch.group):
            rows = np.flatnonzero(batch.group == g)
            size = self._size(float(returns[rows].mean()), state)
            sizes.append(size)
            if self.retention == "best":
                kept[rows] = F.keep_best(score[rows], size)
            elif self.retention == "stratified":
                kept[rows] = F.keep_stratified(score[rows], batch.success[rows], size)
            else:
                kept[rows] = F.keep_fast_successes(score[rows], batch.success[rows], size)
        return kept, sizes

    def _size(self, mean_return: float, state: State) -> int:
        if not self.adaptive:
            return self.num_remains_in_group
        return F.adaptive_size(mean_return, np.array(state.history), self.adaptive_sizes, READY)


def _means(cost: np.ndarray, success: Bools, kept: Bools) -> dict[str, float]:
    """Mean attribute of all successes and of the kept ones, where there are any."""
    chosen = {"metric_all": success, "metric_kept": success & kept}
    return {name: float(cost[rows].mean()) for name, rows in chosen.items() if rows.any()}
