"""The settings that a family of algorithms shares, and which of them do not fit together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from vla_rl import functional as F
from vla_rl.policy import Policy

KLPlacement = Literal["none", "reward", "loss"]

WIDEST_EPISODE_CLIP = 0.1  # geometric means of many units stay within about 0.01 of 1
NARROWEST_UNIT_CLIP = 0.01  # single units differ by more than that after one step


@dataclass(frozen=True)
class UpdateSettings:
    """Every field is an option of every algorithm of the family."""

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

    @property
    def credits_decisions(self) -> bool:
        """Whether single decisions are credited with what came after them."""
        return self.uses_critic

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
        if self.one_loss_per_episode and mode in ("token-mean", "seq-mean-token-sum-norm"):
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
    def one_loss_per_episode(self) -> bool:
        """Whether a loss has one ratio for a whole episode."""
        return self.importance_sampling_level in F.EPISODE_LEVELS or self.loss_type == "gmpo"

    @property
    def whole_episodes(self) -> bool:
        """Whether a loss needs all decisions of an episode at once (VESPO's weight does)."""
        return self.one_loss_per_episode or self.loss_type == "vespo"

    def density_for(self, policy: Policy) -> str:
        """The density of the policy's noise with which this algorithm is right.

        Ratios per token and per action with a baseline from other episodes are right with any
        density. A ratio of a whole chunk or episode needs the joint density of what it spans; a
        critic's baseline, or rewards to go, need decisions whose scores have mean zero whatever
        came before.

        Raises:
            ValueError: If the policy has none, with what to change.
        """
        spans_episode = self.whole_episodes or self.credits_decisions
        spans_chunk = self.whole_episodes or self.importance_sampling_level == "chunk"
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
            "or episodes: start from a policy with --net.head.density auto or decision, or with "
            "--net.head.rho 0 --net.head.episode-share 0"
        )
