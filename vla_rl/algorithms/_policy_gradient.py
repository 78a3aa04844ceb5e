"""The clipped policy-gradient update that the algorithms share.

An algorithm decides on advantages, the level of the ratio, clip ranges and aggregation; everything
that happens after that is here, once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from vla_rl import functional as F
from vla_rl.learner import Learner, Rows
from vla_rl.types import RolloutBatch


@dataclass(frozen=True)
class ClippedUpdate:
    """Settings of the shared update."""

    clip_ratio_low: float
    clip_ratio_high: float
    importance_sampling_level: F.RatioLevel
    loss_agg_mode: F.Aggregation
    ppo_epochs: int
    ppo_mini_batch_size: int
    target_kl: float

    def run(
        self,
        learner: Learner,
        batch: RolloutBatch,
        advantage: torch.Tensor,
        rng: np.random.Generator,
    ) -> dict[str, float]:
        """Several epochs of minibatch steps on one batch.

        Args:
            learner: Takes the gradient steps.
            batch: N episodes of up to T decisions.
            advantage: ``[N]`` per episode, or ``[N, T]`` per decision.
            rng: Shuffles the minibatches.

        Returns:
            Means over the steps taken, under field-standard names.
        """
        mask = torch.from_numpy(batch.mask)
        level = self.importance_sampling_level
        old, unit_mask = F.at_level(
            torch.from_numpy(batch.chunk.logprob), mask, batch.horizon, level
        )
        weight = F.unit_weights(unit_mask, self.loss_agg_mode)
        per_decision = advantage if advantage.dim() == 2 else advantage[:, None]
        per_unit = per_decision[..., None].expand_as(old)
        log = _Log()
        for _ in range(self.ppo_epochs):
            before = len(log.rows)
            for rows in learner.minibatches(batch, self.ppo_mini_batch_size, rng):
                self._step(learner, batch, rows, old, unit_mask, per_unit, weight, log)
            if self.target_kl > 0 and log.mean("actor/ppo_kl", before) > self.target_kl:
                break
        learner.version += 1
        return log.means()

    def _step(
        self,
        learner: Learner,
        batch: RolloutBatch,
        rows: Rows,
        old: torch.Tensor,
        mask: torch.Tensor,
        advantage: torch.Tensor,
        weight: torch.Tensor,
        log: _Log,
    ) -> None:
        at = (torch.from_numpy(rows[:, 0]), torch.from_numpy(rows[:, 1]))
        scores = learner.evaluate(batch, rows)
        new, _ = F.at_level(
            scores.logprob.cpu(),
            torch.from_numpy(batch.mask)[at],
            batch.horizon,
            self.importance_sampling_level,
        )
        surrogate = F.clipped_surrogate(
            new, old[at], advantage[at], mask[at], self.clip_ratio_low, self.clip_ratio_high
        )
        # The weights add up to the whole batch; scaled so that a minibatch step has its size.
        scale = batch.valid.sum() / len(rows)
        norm = learner.step(scale * (weight[at] * surrogate.loss).sum())
        log.add(surrogate, mask[at], float(scores.entropy.detach().mean()), norm)


@dataclass
class _Log:
    rows: list[dict[str, float]] = field(default_factory=list)

    def add(self, surrogate: F.Surrogate, mask: torch.Tensor, entropy: float, norm: float) -> None:
        units = mask.sum().clamp(min=1)
        self.rows.append(
            {
                "actor/pg_clipfrac": float(surrogate.clipped.sum() / units),
                "actor/ppo_kl": float(surrogate.kl.sum() / units),
                "actor/entropy": entropy,
                "actor/grad_norm": norm,
            }
        )

    def mean(self, name: str, since: int = 0) -> float:
        return float(np.mean([row[name] for row in self.rows[since:]]))

    def means(self) -> dict[str, float]:
        return {**{name: self.mean(name) for name in self.rows[0]}, "actor/updates": len(self.rows)}
