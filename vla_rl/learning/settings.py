"""Settings shared by the policy-gradient algorithms, and checks of their combinations."""

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
    """Settings of every policy-gradient algorithm."""

    group_size: int = 8
    """Rollouts from each start; at least 1, or 2 for algorithms that compare them."""
    importance_sampling_level: F.RatioLevel = "token"
    """Level of the importance ratio: one per `token` (a dimension of an action, or an action
    token), per low-level `action`, per `chunk`, or per episode: `trajectory` (product), `sequence`
    (geometric mean) or `sequence_token` (that mean, with the gradient of single units)."""
    loss_type: F.LossType = "ppo_clip"
    """Surrogate loss: `ppo_clip`, `cispo`, `sapo`, `gmpo`, `vespo` or `reinforce`."""
    clip_ratio_low: float = 0.2
    """Clip range below a ratio of 1; above 0."""
    clip_ratio_high: float = 0.2
    """Clip range above a ratio of 1; above 0."""
    clip_ratio_c: float = 0.0
    """Dual clip of `ppo_clip`: largest ratio used with a negative advantage, above 1; 0 for
    none."""
    clip_quantile: float = 0.0
    """Measure the clip range instead of setting it: the running mean of this quantile, in (0, 1),
    of the distances of ratios from 1 after the first gradient step on each batch. 0 uses the ranges
    above."""
    loss_agg_mode: F.Aggregation = "seq-mean-token-mean"
    """Aggregation of the losses of units: `seq-mean-token-mean`, `token-mean`, `seq-mean-token-sum`
    or `seq-mean-token-sum-norm`. All but the first lower probabilities on balance where failures
    are longer than successes."""
    loss_scale_factor: float = 0.0
    """Divisor of `seq-mean-token-sum-norm`, in units; 0 uses the length of the longest horizon."""
    kl_coef: float = 0.0
    """Weight of the KL divergence from the starting policy."""
    kl_placement: KLPlacement = "none"
    """Where the KL divergence is added: to the `loss`, to the `reward`, or `none`."""
    kl_estimator: F.KLEstimator = "k3"
    """Estimator of a KL in the loss: `k1`, `k2` or `k3`. A KL in the reward always uses k1."""
    kl_unbiased: bool = False
    """Weight the KL in the loss by the ratio, which makes its gradient unbiased."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    ppo_epochs: int = 6
    """Passes over each batch."""
    ppo_mini_batch_size: int = 128
    """Decisions per gradient step; 0 for the whole batch."""
    ppo_micro_batch_size: int = 0
    """Decisions in memory at once, over which gradients are accumulated; 0 for the whole step."""
    target_kl: float = 0.2
    """KL per low-level action above which the passes over a batch stop early; 0 for never. The
    default only catches runaway updates: much smaller values waste most of a batch."""
    rollout_correction: Literal["none", "token"] = "none"
    """Truncated importance sampling for policies that act in a different precision than they are
    trained in. `token` recomputes old log-probs with the learner's network and weights each unit by
    the truncated ratio to those at acting."""
    rollout_correction_max: float = 2.0
    """Largest weight of the rollout correction."""

    dynamic_sampling: bool = False
    """Draw new starts in place of those whose group is dropped, for instance without contrast
    (DAPO)."""

    uses_critic: ClassVar[bool] = False
    trains: ClassVar[tuple[str, ...]] = ("head",)
    discount: ClassVar[float] = 1.0

    @property
    def credits_decisions(self) -> bool:
        """Whether single decisions are credited with the rewards that follow them."""
        return self.uses_critic

    @property
    def uses_reference(self) -> bool:
        """Whether the starting policy is needed as a reference."""
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
                f"geometric mean of an episode's ratios stays close to 1, so nothing would ever be "
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
        """Whether the loss has one ratio per episode."""
        return self.importance_sampling_level in F.EPISODE_LEVELS or self.loss_type == "gmpo"

    @property
    def whole_episodes(self) -> bool:
        """Whether the loss needs all decisions of an episode at once, as VESPO's does."""
        return self.one_loss_per_episode or self.loss_type == "vespo"

    def density_for(self, policy: Policy) -> str:
        """The density of the policy's noise with which this algorithm is unbiased.

        Ratios per token and per action with a baseline from other episodes may use any density. A
        ratio of a whole chunk or episode needs the joint density of its units; a critic's baseline,
        or rewards-to-go, need decisions whose scores have mean zero given all earlier ones.

        Raises:
            ValueError: If the policy has no such density; says what to change.
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
