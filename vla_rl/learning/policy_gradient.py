"""The policy-gradient update that a family of algorithms shares.

An algorithm of the family is a dataclass that inherits :class:`PolicyGradient` (or
:class:`vla_rl.learning.group_relative.GroupRelative`), changes defaults and defines how rewards
become advantages. Ratio, surrogate, clip, aggregation, KL, minibatches and logging are shared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vla_rl import functional as F
from vla_rl.learning.learner import Learner, Rows, Together
from vla_rl.learning.settings import UpdateSettings
from vla_rl.learning.update_log import UpdateLog, credit_metrics
from vla_rl.learning.update_state import UpdateState
from vla_rl.types import Group, RolloutBatch, Task


class Credit(NamedTuple):
    """Advantages and critic targets of a batch.

    Attributes:
        batch: Episodes to learn from; others are masked.
        advantage: ``[N]`` per episode or ``[N, T]`` per decision.
        target: ``[N, T]`` targets of the critic, if there is one to train.
        log: Metrics to log.
    """

    batch: RolloutBatch
    advantage: Tensor
    target: Tensor | None = None
    log: Mapping[str, float] = {}


@dataclass(frozen=True)
class PolicyGradient(UpdateSettings, ABC):
    """The shared update of the policy-gradient family."""

    # ------------------------------------------------------------------ what an algorithm changes

    @abstractmethod
    def credit(self, batch: RolloutBatch, reward: Tensor, state: Any) -> Credit:
        """Compute advantages from ``[N, T]`` rewards; ``state`` comes from :meth:`new_state`."""

    def new_state(self, tasks: Sequence[Task]) -> UpdateState:
        """State of a run on these tasks, before its first update."""
        return UpdateState(longest=max(task.max_steps for task in tasks))

    def observe(self, groups: Sequence[Group], state: Any) -> None:  # noqa: B027
        """Receive all groups that were played, including those that will be dropped."""

    def keep(self, group: Group) -> bool:
        """Whether to learn from a group; the others are dropped."""
        return True

    def value_loss(self, value: Tensor, old_value: Tensor, target: Tensor) -> Tensor:
        """Loss ``[R]`` of the critic, if :meth:`credit` returns targets."""
        return F.clipped_value_loss(value, old_value, target, cliprange_value=0.0)

    def actor_waits(self, learner: Learner) -> bool:
        """Whether only the critic is trained in this update."""
        return False

    def clip_range(self, state: UpdateState) -> tuple[float, float]:
        """Clip range below and above 1; infinite before it has been measured."""
        if not self.clip_quantile:
            return self.clip_ratio_low, self.clip_ratio_high
        if state.clip_range is None:
            return float("inf"), float("inf")
        return state.clip_range, state.clip_range

    # ------------------------------------------------------------------------------------ update

    def update(
        self, learner: Learner, batch: RolloutBatch, state: Any, rng: np.random.Generator
    ) -> dict[str, float]:
        """Train on one batch for several epochs of minibatch steps.

        Returns:
            Metrics, as means over the gradient steps.

        Raises:
            ValueError: If a KL penalty is set and the learner has no reference policy.
        """
        task = _Prepared.of(self, learner, batch, state)
        log = UpdateLog(learner.ranks, keep_distances=self.clip_quantile > 0)
        if not task.batch.valid.any():  # a filter may have left nothing
            return dict(task.log)
        together: Together = "episode" if self.whole_episodes else "decision"
        waits = self.actor_waits(learner)
        warmth = learner.head_warmth  # of this batch's first step
        for _ in range(self.ppo_epochs):
            log.new_epoch()
            for rows in learner.minibatches(task.batch, self.ppo_mini_batch_size, rng, together):
                for part in learner.parts(task.batch, rows, self.ppo_micro_batch_size, together):
                    learner.accumulate(self._loss(learner, task, part, len(rows), waits, log))
                log.stepped(learner.step(regularise=not waits))
                if log.keep_distances:
                    found = log.measured_clip_range(self.clip_quantile, warmth)
                    state.follow(found)
            if self.target_kl > 0 and log.kl_of_epoch() > self.target_kl:
                break
        learner.version += 1
        measured = {} if state.clip_range is None else {"actor/clip_range": state.clip_range}
        return {**log.means(), **measured, **task.log}

    def _loss(
        self,
        learner: Learner,
        task: _Prepared,
        rows: Rows,
        step_rows: int,
        waits: bool,
        log: UpdateLog,
    ) -> Tensor:
        """Loss of some rows of a minibatch; over all its ``step_rows`` rows, the whole loss."""
        at = _at(rows)
        scores = learner.evaluate(task.batch, rows)
        # The weights aggregate over the whole batch; rescaled to the size of this minibatch.
        scale = task.batch.valid.sum() / step_rows
        loss = torch.zeros(())
        logprob, executed = scores.logprob.cpu(), task.raw_mask[at]
        # Not a product with the mask: units that were not executed may be anything, even NaN.
        units = torch.where(executed, scores.entropy.cpu(), torch.zeros(()))
        entropy = units.sum(-1) / executed.sum(-1)
        if not waits:
            loss = scale * (task.weight[at] * self._policy_loss(task, at, logprob, log)).sum()
            if self.entropy_coef > 0:
                loss = loss - self.entropy_coef * entropy.sum() / step_rows
        if task.target is not None:
            value = scores.value.cpu()
            errors = self.value_loss(value, task.old_value[at], task.target[at])
            loss = loss + errors.sum() / step_rows
            log.add("critic/vf_loss", errors.detach().sum(), len(rows))
        log.add("actor/entropy", entropy.detach().sum(), len(rows))
        log.action_kl(logprob.detach(), task.raw_old[at], executed, task.batch.horizon)
        return loss

    def _policy_loss(
        self,
        task: _Prepared,
        at: tuple[Tensor, Tensor],
        logprob: Tensor,
        log: UpdateLog,
    ) -> Tensor:
        """Loss ``[R, U]`` of every unit."""
        level, mask, episode = self.importance_sampling_level, task.mask[at], at[0]
        new, _ = F.at_level(logprob, task.raw_mask[at], task.batch.horizon, level)
        log_ratio = F.log_ratio(new, task.old[at], mask, level, episode)
        surrogate = F.surrogate_loss(
            self.loss_type,
            new,
            log_ratio,
            task.advantage[at][:, None],
            mask,
            episode,
            *task.clip_range,
            self.clip_ratio_c,
        )
        loss = surrogate.loss
        if task.correction is not None:
            loss = loss * task.correction[at]
        if task.reference is not None and self.kl_placement == "loss":
            kl = F.divergence(new, task.reference[at], mask, self.kl_estimator)
            log.add("actor/kl_loss", kl.detach().sum(), mask.sum())
            loss = loss + self.kl_coef * (kl * log_ratio.exp() if self.kl_unbiased else kl)
        log.ratios(log_ratio.detach().exp(), surrogate.clipped, mask)
        return loss


def _at(rows: Rows) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(rows[:, 0]), torch.from_numpy(rows[:, 1])


@dataclass(frozen=True)
class _Prepared:
    """A prepared batch: everything that is fixed while it is reused, all ``[N, T, ...]``.

    ``old``, ``mask``, ``weight``, ``reference`` and ``correction`` are at the level of the ratio.
    """

    batch: RolloutBatch
    advantage: Tensor
    target: Tensor | None
    old_value: Tensor
    raw_old: Tensor
    raw_mask: Tensor
    old: Tensor
    mask: Tensor
    weight: Tensor
    reference: Tensor | None
    correction: Tensor | None
    state: UpdateState
    algorithm: PolicyGradient
    log: Mapping[str, float]

    @property
    def clip_range(self) -> tuple[float, float]:
        """Clip range below and above 1; it may be measured while the batch is reused."""
        return self.algorithm.clip_range(self.state)

    @classmethod
    def of(
        cls, algorithm: PolicyGradient, learner: Learner, batch: RolloutBatch, state: UpdateState
    ) -> _Prepared:
        reward = torch.from_numpy(batch.reward)
        acting = torch.from_numpy(batch.chunk.logprob)
        every = torch.from_numpy(batch.mask)
        log: dict[str, float] = {}
        reference = None
        if algorithm.uses_reference:
            if learner.reference is None:
                raise ValueError(
                    f"kl_coef {algorithm.kl_coef} needs a reference policy; the learner has none"
                )
            reference = learner.logprobs(batch, learner.reference)
            if algorithm.kl_placement == "reward":
                kl = F.divergence(acting, reference, every, "k1").sum(-1)
                reward = reward - algorithm.kl_coef * kl
                log["train/kl_reward"] = float(kl.sum(1).mean())
        credit = algorithm.credit(batch, reward, state)
        advantage, batch = credit.advantage, credit.batch
        if advantage.dim() == 1:
            advantage = advantage[:, None].expand(batch.valid.shape)
        raw_mask = torch.from_numpy(batch.mask)

        def level(logprob: Tensor) -> tuple[Tensor, Tensor]:
            name = algorithm.importance_sampling_level
            return F.at_level(logprob, raw_mask, batch.horizon, name)

        raw_old, correction = acting, None
        if algorithm.rollout_correction == "token":
            raw_old = learner.logprobs(batch, learner.policy)
            correction = F.importance_weight(
                level(raw_old)[0], *level(acting), algorithm.rollout_correction_max
            )
        old, mask = level(raw_old)
        units = state.longest * mask.shape[2] / batch.horizon
        return cls(
            batch=batch,
            advantage=advantage.float(),
            target=credit.target,
            old_value=torch.from_numpy(batch.chunk.value),
            raw_old=raw_old,
            raw_mask=raw_mask,
            old=old,
            mask=mask,
            weight=F.unit_weights(
                mask, algorithm.loss_agg_mode, algorithm.loss_scale_factor or units
            ),
            reference=None if reference is None else level(reference)[0],
            correction=correction,
            state=state,
            algorithm=algorithm,
            log={**credit_metrics(advantage, batch), **log, **credit.log},
        )
