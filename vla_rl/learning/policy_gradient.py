"""The policy-gradient update that a family of algorithms shares.

An algorithm of the family is a dataclass that inherits :class:`PolicyGradient` (or
:class:`vla_rl.learning.group_relative.GroupRelative`), changes defaults and says how rewards become
advantages. Ratio, surrogate, clip, aggregation, KL, minibatches and logging are here, once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vla_rl import functional as F
from vla_rl.learning.learner import Learner, Rows
from vla_rl.learning.update_log import UpdateLog
from vla_rl.policy import Policy
from vla_rl.types import Group, RolloutBatch, Task

KLPlacement = Literal["none", "reward", "loss"]

WIDEST_EPISODE_CLIP = 0.1  # geometric means of many units stay within about 0.01 of 1
NARROWEST_UNIT_CLIP = 0.01  # single units differ by more than that after one step
CLIP_MEMORY = 0.7  # of a measured clip range, from batch to batch


class Credit(NamedTuple):
    """What an algorithm makes of a batch.

    Attributes:
        batch: Episodes to learn from; others are masked.
        advantage: ``[N]`` per episode or ``[N, T]`` per decision.
        target: ``[N, T]`` what the critic should say, if there is one to train.
        log: What to log.
    """

    batch: RolloutBatch
    advantage: Tensor
    target: Tensor | None = None
    log: Mapping[str, float] = {}


@dataclass
class UpdateState:
    """What an algorithm carries from update to update; the loop owns, saves and renews it.

    Attributes:
        longest: Largest horizon of the run's tasks, in environment steps.
        clip_range: The measured clip range, if one is measured.
    """

    longest: int
    clip_range: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state for resuming."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        for name, value in state.items():
            setattr(self, name, value)


@dataclass(frozen=True)
class PolicyGradient(ABC):
    """The shared options; every field is a setting of every algorithm of the family."""

    group_size: int = 8
    """Rollouts from each start."""
    importance_sampling_level: F.RatioLevel = "token"
    """One ratio per `token` (one dimension of one action, or one action token), per low-level
    `action`, per `chunk`, or per episode: `trajectory` (product), `sequence` (geometric mean),
    `sequence_token` (its value, with the gradient of single units)."""
    loss_type: F.LossType = "ppo_clip"
    """Surrogate: `ppo_clip`, `cispo`, `sapo`, `gmpo`, `vespo` or `reinforce`."""
    clip_ratio_low: float = 0.2
    """Clip range below a ratio of 1."""
    clip_ratio_high: float = 0.2
    """Clip range above a ratio of 1."""
    clip_ratio_c: float = 0.0
    """Dual clip of `ppo_clip`: largest ratio that counts for negative advantages, above 1; 0 for
    none."""
    clip_quantile: float = 0.0
    """Measure both clip ranges instead: this quantile of the distances of the ratios from 1 after
    the first gradient step on each batch, as a running mean. 0 for given ranges."""
    loss_agg_mode: F.Aggregation = "seq-mean-token-mean"
    """How unit losses are averaged. Anything but seq-mean-token-mean pushes probability down on
    balance where failures are longer than successes."""
    loss_scale_factor: float = 0.0
    """Units that `seq-mean-token-sum-norm` divides by; 0 takes those of the longest horizon."""
    kl_coef: float = 0.0
    """Weight of the divergence from the policy that training started from."""
    kl_placement: KLPlacement = "none"
    """Where the divergence goes: into the `loss`, into the `reward`, or `none`."""
    kl_estimator: F.KLEstimator = "k3"
    """`k1`, `k2` or `k3` for a KL in the loss; in the reward it is always k1."""
    kl_unbiased: bool = False
    """Weight the KL in the loss with the ratio, so that its gradient is the right one."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    ppo_epochs: int = 6
    """Passes over each batch."""
    ppo_mini_batch_size: int = 128
    """Decisions in a gradient step; 0 takes the whole batch."""
    ppo_micro_batch_size: int = 0
    """Decisions in memory at once; gradients of a step add up over them. 0 for the whole step."""
    target_kl: float = 0.2
    """Passes stop early when the KL per low-level action exceeds this; 0 switches it off. The
    default only catches runaways: far smaller limits cost most of what a batch can teach."""
    rollout_correction: Literal["none", "token"] = "none"
    """`token`: take old log-probs from the learner's own network, and weight each unit with the
    truncated ratio to those at acting. For policies that act in other arithmetic than they learn
    in."""
    rollout_correction_max: float = 2.0
    """Largest such weight."""

    dynamic_sampling: bool = False
    """Draw starts again in place of those whose group has nothing to teach (DAPO)."""

    uses_critic: ClassVar[bool] = False
    trains: ClassVar[tuple[str, ...]] = ("head",)
    discount: ClassVar[float] = 1.0

    # ------------------------------------------------------------------ what an algorithm changes

    @abstractmethod
    def credit(self, batch: RolloutBatch, reward: Tensor, state: Any) -> Credit:
        """Advantages from ``[N, T]`` rewards; ``state`` is what :meth:`new_state` made."""

    def new_state(self, tasks: Sequence[Task]) -> UpdateState:
        """The state of a run on these tasks before its first update."""
        return UpdateState(longest=max(task.max_steps for task in tasks))

    def observe(self, groups: Sequence[Group], state: Any) -> None:  # noqa: B027
        """Look at every group that was played, also at those that are not learned from."""

    def keep(self, group: Group) -> bool:
        """Whether a group can teach something."""
        return True

    def value_loss(self, value: Tensor, old_value: Tensor, target: Tensor) -> Tensor:
        """``[R]`` loss of the critic, if credit comes with targets for it."""
        return F.clipped_value_loss(value, old_value, target, cliprange_value=0.0)

    def actor_waits(self, learner: Learner) -> bool:
        """Whether only the critic is trained for now."""
        return False

    @property
    def credits_decisions(self) -> bool:
        """Whether single decisions are credited with what came after them."""
        return self.uses_critic

    # ---------------------------------------------------------------------------------- settings

    @property
    def uses_reference(self) -> bool:
        """Whether the policy that training started from is needed."""
        return self.kl_coef > 0

    def __post_init__(self) -> None:
        if self.group_size < 1:
            raise ValueError(f"group_size must be at least 1, got {self.group_size}")
        for name in ("kl_coef", "entropy_coef", "target_kl", "clip_quantile", "loss_scale_factor"):
            if vars(self)[name] < 0:
                raise ValueError(f"{name} must not be negative, got {vars(self)[name]}")
        if self.ppo_epochs < 1 or self.ppo_mini_batch_size < 0 or self.ppo_micro_batch_size < 0:
            raise ValueError(
                f"ppo_epochs {self.ppo_epochs} must be at least 1, ppo_mini_batch_size "
                f"{self.ppo_mini_batch_size} and ppo_micro_batch_size {self.ppo_micro_batch_size} "
                "not negative"
            )
        if self.rollout_correction_max <= 0:
            raise ValueError(
                f"rollout_correction_max must be positive, got {self.rollout_correction_max}"
            )
        self._check_clip()
        self._check_level()
        if (self.kl_coef > 0) != (self.kl_placement != "none"):
            raise ValueError(
                f"kl_coef {self.kl_coef} and kl_placement {self.kl_placement!r} do not fit: a KL "
                "needs a coefficient above 0 and a place ('loss' or 'reward')"
            )

    def _check_clip(self) -> None:
        low, high, level = self.clip_ratio_low, self.clip_ratio_high, self.importance_sampling_level
        if self.clip_ratio_c != 0 and not self.clip_ratio_c > 1:
            raise ValueError(
                f"clip_ratio_c must be above 1, or 0 for none, got {self.clip_ratio_c}"
            )
        if self.clip_quantile >= 1:
            raise ValueError(f"clip_quantile must be below 1, got {self.clip_quantile}")
        if self.clip_quantile or self.loss_type in ("reinforce", "sapo", "vespo"):
            return
        if not (low > 0 and high > 0):
            raise ValueError(
                f"clip_ratio_low and clip_ratio_high must be positive, got {low} and {high}"
            )
        if self.loss_type == "ppo_clip" and low >= 1:
            raise ValueError(f"clip_ratio_low must be below 1, got {low}: ratios are positive")
        if level in ("sequence", "sequence_token") and max(low, high) > WIDEST_EPISODE_CLIP:
            raise ValueError(
                f"clip range {low}/{high} does not fit importance_sampling_level {level!r}: the "
                f"geometric mean of an episode's ratios hardly leaves 1, so nothing would ever be "
                f"clipped. Give ranges below {WIDEST_EPISODE_CLIP} (papers: 0.0003 to 0.0025), or "
                "clip_quantile 0.85 to have them measured"
            )
        if level not in ("sequence", "sequence_token") and min(low, high) < NARROWEST_UNIT_CLIP:
            raise ValueError(
                f"clip range {low}/{high} does not fit importance_sampling_level {level!r}: nearly "
                f"every {level} would be clipped after one step. Give ranges of at least "
                f"{NARROWEST_UNIT_CLIP} (papers: 0.2 to 0.28)"
            )

    def _check_level(self) -> None:
        level, mode = self.importance_sampling_level, self.loss_agg_mode
        if self._one_loss_per_episode and mode in ("token-mean", "seq-mean-token-sum-norm"):
            raise ValueError(
                f"loss_agg_mode {mode!r} does not fit one ratio per episode ({level!r}, "
                f"{self.loss_type!r}): it would weight every episode by its length. Use "
                "'seq-mean-token-mean'"
            )
        if self.loss_type in ("gmpo", "vespo") and level not in ("token", "action", "chunk"):
            raise ValueError(
                f"loss_type {self.loss_type!r} averages over the episode itself: give it "
                f"importance_sampling_level 'token' or 'action', not {level!r}"
            )
        if self.loss_type == "reinforce" and self.ppo_epochs > 1:
            raise ValueError(
                f"loss_type 'reinforce' has no ratio, so it is right on-policy only: ppo_epochs "
                f"must be 1, got {self.ppo_epochs}"
            )
        if self.loss_type == "reinforce" and self.ppo_mini_batch_size:
            raise ValueError(
                "loss_type 'reinforce' has no ratio, so only the first gradient step on a batch is "
                f"right: ppo_mini_batch_size must be 0 (the whole batch), got "
                f"{self.ppo_mini_batch_size}; ppo_micro_batch_size bounds the memory"
            )
        if self.kl_unbiased and level not in ("token", "action", "chunk"):
            raise ValueError(f"kl_unbiased needs one ratio per unit, not {level!r}")

    @property
    def _one_loss_per_episode(self) -> bool:
        return self.importance_sampling_level in F.EPISODE_LEVELS or self.loss_type == "gmpo"

    @property
    def _whole_episodes(self) -> bool:
        """Whether a loss needs all decisions of an episode at once (VESPO's weight does)."""
        return self._one_loss_per_episode or self.loss_type == "vespo"

    def density_for(self, policy: Policy) -> str:
        """The density of the policy's noise with which this algorithm is right.

        Ratios per token and per action with a baseline from other episodes are right with any
        density. A ratio of a whole chunk or episode needs the joint density of what it spans; a
        critic's baseline, or rewards to go, need decisions whose scores have mean zero whatever
        came before.

        Raises:
            ValueError: If the policy has none, with what to change.
        """
        spans_episode = self._whole_episodes or self.credits_decisions
        spans_chunk = self._whole_episodes or self.importance_sampling_level == "chunk"
        for density in policy.densities:
            exact = policy.exactness(density)
            if (exact.within_chunk or not spans_chunk) and (
                exact.between_decisions or not spans_episode
            ):
                return density
        reason = (
            "credit by decision (a critic, or rewards to go)"
            if self.credits_decisions
            else f"importance_sampling_level {self.importance_sampling_level!r} with loss_type "
            f"{self.loss_type!r}"
        )
        raise ValueError(
            f"{reason} does not fit density {' or '.join(map(repr, policy.densities))} of this "
            "policy's correlated exploration noise, whose log-probs are not those of whole chunks "
            "or episodes: start from a policy with --net.density auto or episode, or with "
            "--net.rho 0 --net.episode-share 0"
        )

    def clip_range(self, state: UpdateState) -> tuple[float, float]:
        """Below and above 1; infinite while it is still to be measured."""
        if not self.clip_quantile:
            return self.clip_ratio_low, self.clip_ratio_high
        measured = state.clip_range
        return (float("inf"),) * 2 if measured is None else (measured, measured)

    # ------------------------------------------------------------------------------------ update

    def update(
        self, learner: Learner, batch: RolloutBatch, state: Any, rng: np.random.Generator
    ) -> dict[str, float]:
        """Several epochs of minibatch steps on one batch.

        Returns:
            Means over the steps taken, under field-standard names.

        Raises:
            ValueError: If a KL is wanted and the learner has no reference policy.
        """
        task = _Prepared.of(self, learner, batch, state)
        log = UpdateLog(learner.ranks, keep_distances=self.clip_quantile > 0)
        if not task.batch.valid.any():  # a filter may have left nothing
            return dict(task.log)
        together, waits = self._whole_episodes, self.actor_waits(learner)
        warmth = learner.head_warmth  # of this batch's first step
        for _ in range(self.ppo_epochs):
            log.new_epoch()
            for rows in learner.minibatches(task.batch, self.ppo_mini_batch_size, rng, together):
                for part in learner.parts(rows, self.ppo_micro_batch_size, together):
                    learner.accumulate(self._loss(learner, task, part, len(rows), waits, log))
                log.stepped(learner.step(regularise=not waits))
                if log.keep_distances:
                    self._measure_clip_range(learner, log, state, warmth)
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
        """Loss of some rows of a minibatch of ``step_rows``; over all rows it adds up to its."""
        at = _at(rows)
        scores = learner.evaluate(task.batch, rows)
        # The weights add up to the whole batch; scaled so that a minibatch step has its size.
        scale = task.batch.valid.sum() / step_rows
        loss = torch.zeros(())
        logprob, executed = scores.logprob.cpu(), task.raw_mask[at]
        # Not a product with the mask: what was not executed may be anything, NaN included.
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
        """``[R, U]`` loss of every unit."""
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

    def _measure_clip_range(
        self, learner: Learner, log: UpdateLog, state: UpdateState, warmth: float
    ) -> None:
        distances = learner.ranks.all_gather(log.distances)
        if not distances:  # before the first step all ratios are 1
            return
        log.keep_distances = False
        apart = np.concatenate(distances)
        measured = float(np.quantile(apart[np.isfinite(apart)], self.clip_quantile))
        measured /= warmth  # ratios move with the rate: a step of the warm-up says too little
        if state.clip_range is not None:
            measured = CLIP_MEMORY * state.clip_range + (1 - CLIP_MEMORY) * measured
        state.clip_range = measured


def _at(rows: Rows) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(rows[:, 0]), torch.from_numpy(rows[:, 1])


@dataclass(frozen=True)
class _Prepared:
    """A prepared batch: everything that stays fixed while it is reused, all ``[N, T, ...]``.

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
        """Below and above 1; it may be measured while the batch is reused."""
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
            log={**_describe(advantage, batch), **log, **credit.log},
        )


def _describe(advantage: Tensor, batch: RolloutBatch) -> dict[str, float]:
    """Advantages as they are learned from, and returns of the episodes."""
    counted = advantage[torch.from_numpy(batch.valid)]
    returns = torch.from_numpy(batch.reward).sum(1)
    found = {"actor/advantage": counted, "train/return": returns}
    return {
        f"{name}_{what}": float(value)
        for name, values in found.items()
        if len(values)
        for what, value in (("mean", values.mean()), ("std", values.std(correction=0)))
    }
