"""Metrics of the episodes of one iteration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from vla_rl.types import Group


def episode_metrics(played: Sequence[Group], kept: Sequence[Group]) -> dict[str, float]:
    """Success by task, lengths and returns of all groups, and the share that is not learned from.

    Args:
        played: All groups of the iteration.
        kept: Those to learn from.
    """
    episodes = [t for group in played for t in group]
    by_task = defaultdict(list)
    for t in episodes:
        by_task[t.spec.task.id].append(t)
    # A sequence has no single success, so its completed share is reported instead.
    kinds = {
        task: "completed" if of_task[0].spec.task.subgoals else "success"
        for task, of_task in by_task.items()
    }
    rates = {
        f"train/{kinds[task]}/{task}": float(np.mean([t.share_done for t in of_task]))
        for task, of_task in by_task.items()
    }
    overall = "completed" if "completed" in kinds.values() else "success"
    return {
        **rates,
        f"train/{overall}": float(np.mean([t.share_done for t in episodes])),
        "train/episode_steps": float(np.mean([t.steps for t in episodes])),
        "train/env_reward": float(np.mean([t.env_reward.sum() for t in episodes])),
        "train/groups_played": len(played),
        "train/groups_kept": len(kept),
        "train/frac_groups_dropped": 1 - len(kept) / len(played),
        "train/frac_env_steps_dropped": 1 - env_steps(kept) / env_steps(played),
    }


def env_steps(groups: Sequence[Group]) -> int:
    """Environment steps of all episodes."""
    return sum(t.steps for group in groups for t in group)
