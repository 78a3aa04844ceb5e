"""Metrics of an update: sums over units, steps and ranks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vla_rl import functional as F
from vla_rl.learning.distributed import Ranks
from vla_rl.learning.learner import StepReport
from vla_rl.types import RolloutBatch


class UpdateLog:
    """Sums over the units and steps of an update; each metric is the ratio of two sums."""

    def __init__(self, ranks: Ranks, keep_distances: bool) -> None:
        """Start with empty sums.

        Args:
            ranks: Processes to sum over.
            keep_distances: Whether to collect ``distances`` of the ratios from 1.
        """
        self._ranks = ranks
        self.keep_distances = keep_distances
        self._total: dict[str, list[float]] = {}
        self._epoch_start: list[float] = [0.0, 0.0]
        self._steps = 0
        self._by_group: dict[str, list[float]] = {}
        self.distances: list[np.ndarray] = []

    def add(self, name: str, value: Tensor | float, count: Tensor | float) -> None:
        """Add to the two sums of a metric."""
        pair = self._total.setdefault(name, [0.0, 0.0])
        pair[0] += float(value)
        pair[1] += float(count)

    def ratios(self, ratio: Tensor, clipped: Tensor, mask: Tensor) -> None:
        """Add the ratios of some rows, and which of their units were clipped."""
        units, inside = mask.sum(), ratio[mask]
        self.add("actor/pg_clipfrac", clipped.sum(), units)
        self.add("actor/ratio_mean", (inside - 1).sum(), units)
        self.add("actor/ratio_std", (inside - 1).square().sum(), units)
        # Before the first step every ratio is 1.
        if self.keep_distances and self._steps:
            self.distances.append((inside - 1).abs().numpy())

    def action_kl(self, new: Tensor, old: Tensor, mask: Tensor, horizon: int) -> None:
        """Add the KL per low-level action, which is comparable across ratio levels."""
        new, executed = F.at_level(new, mask, horizon, "action")
        old, _ = F.at_level(old, mask, horizon, "action")
        kl = F.divergence(old, new, executed, "k3")
        finite = torch.isfinite(kl)  # a skipped step must not disable the early stop
        self.add("actor/ppo_kl", kl[finite].sum(), (executed & finite).sum())

    def stepped(self, step: StepReport) -> None:
        """Add the report of a gradient step."""
        if not step.norms:
            return
        self._steps += 1
        for name, norm in step.norms.items():
            sums = self._by_group.setdefault(name, [0.0, 0.0])
            sums[0] += norm
            sums[1] += step.clipped[name]

    def new_epoch(self) -> None:
        """Begin a pass over the batch."""
        self._epoch_start = list(self._total.get("actor/ppo_kl", [0.0, 0.0]))

    def kl_of_epoch(self) -> float:
        """Mean KL per low-level action in the current pass."""
        kl, count = self._total.get("actor/ppo_kl", [0.0, 0.0])
        since = [kl - self._epoch_start[0], count - self._epoch_start[1]]
        total, units = self._ranks.total(torch.tensor(since, dtype=torch.float64)).tolist()
        return float(total / max(units, 1))

    def means(self) -> dict[str, float]:
        """Every metric of the update."""
        whole: dict[str, list[float]] = {}
        for of_rank in self._ranks.all_gather([self._total]):  # a rank without rows has no names
            for name, (value, count) in of_rank.items():
                pair = whole.setdefault(name, [0.0, 0.0])
                pair[0] += value
                pair[1] += count
        out = {name: value / max(count, 1) for name, (value, count) in sorted(whole.items())}
        if "actor/ratio_std" in out:  # computed around 1 until here, for precision
            variance = out["actor/ratio_std"] - out["actor/ratio_mean"] ** 2
            out["actor/ratio_std"] = max(variance, 0.0) ** 0.5
            out["actor/ratio_mean"] += 1
        steps = max(self._steps, 1)
        for name, (norm, clipped) in self._by_group.items():
            part = "actor" if name == "head" else name
            out[f"{part}/grad_norm"] = norm / steps
            out[f"{part}/grad_clipped"] = clipped / steps
        return {**out, "actor/kl_last_epoch": self.kl_of_epoch(), "actor/updates": self._steps}

    def measured_clip_range(self, quantile: float, warmth: float) -> float | None:
        """A quantile of the distances of ratios from 1, of all ranks; collects none afterwards.

        Args:
            quantile: In (0, 1).
            warmth: Factor by which the warm-up reduced the learning rate, with which ratios scale.

        Returns:
            The clip range; None before the first step, where all ratios are 1.
        """
        distances = self._ranks.all_gather(self.distances)
        if not distances:
            return None
        self.keep_distances = False
        apart = np.concatenate(distances)
        return float(np.quantile(apart[np.isfinite(apart)], quantile)) / warmth


def credit_metrics(advantage: Tensor, batch: RolloutBatch) -> dict[str, float]:
    """Metrics of the advantages, as used in the update, and of the returns."""
    counted = advantage[torch.from_numpy(batch.valid)]
    returns = torch.from_numpy(batch.reward).sum(1)
    found = {"actor/advantage": counted, "train/return": returns}
    return {
        f"{name}_{what}": float(value)
        for name, values in found.items()
        if len(values)
        for what, value in (("mean", values.mean()), ("std", values.std(correction=0)))
    }
