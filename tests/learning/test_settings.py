"""Settings of algorithms: what is refused, and what is unusual but works."""

from __future__ import annotations

import pytest

from tests.learning.helpers import WITHOUT_KL
from vla_rl.algorithms import gfpo, grpo, loop, ppo, reinforce_pp, rloo
from vla_rl.learning.group_relative import GroupRelative

SEQUENCE = {
    "importance_sampling_level": "sequence",
    "clip_ratio_low": 0.01,
    "clip_ratio_high": 0.01,
}
REFUSED = {
    "reinforce in minibatches": (
        GroupRelative,
        {"loss_type": "reinforce", "ppo_epochs": 1},
        "ppo_mini_batch_size must be 0",
    ),
    "unit clip range at sequence level": (
        GroupRelative,
        {"importance_sampling_level": "sequence"},
        r"clip range 0\.2/0\.2 does not fit importance_sampling_level 'sequence'.*clip_quantile",
    ),
    "the same with single gradients": (
        GroupRelative,
        {"importance_sampling_level": "sequence_token"},
        "does not fit importance_sampling_level 'sequence_token'",
    ),
    "sequence clip range at unit level": (
        GroupRelative,
        {"clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4},
        r"clip range 0\.0003/0\.0004 does not fit importance_sampling_level 'token'",
    ),
    "no clip range": (GroupRelative, {"clip_ratio_low": 0.0}, "clip_ratio_low and .* positive"),
    "no ratio below 0": (GroupRelative, {"clip_ratio_low": 1.0}, "clip_ratio_low must be below 1"),
    "dual clip below 1": (GroupRelative, {"clip_ratio_c": 1.0}, "clip_ratio_c must be above 1"),
    "negative dual clip": (GroupRelative, {"clip_ratio_c": -3.0}, "clip_ratio_c must be above 1"),
    "quantile of 1": (GroupRelative, {"clip_quantile": 1.0}, "clip_quantile must be below 1"),
    "negative quantile": (GroupRelative, {"clip_quantile": -0.1}, "clip_quantile must not be neg"),
    "length-weighted sequences": (
        GroupRelative,
        {**SEQUENCE, "loss_agg_mode": "token-mean"},
        r"'token-mean' does not fit one ratio per episode .*Use 'seq-mean-token-mean'",
    ),
    "sequences over a constant": (
        GroupRelative,
        {**SEQUENCE, "loss_agg_mode": "seq-mean-token-sum-norm"},
        "'seq-mean-token-sum-norm' does not fit one ratio per episode",
    ),
    "length-weighted products": (
        GroupRelative,
        {"importance_sampling_level": "trajectory", "loss_agg_mode": "token-mean"},
        "does not fit one ratio per episode .'trajectory'",
    ),
    "length-weighted gmpo": (
        GroupRelative,
        {"loss_type": "gmpo", "loss_agg_mode": "token-mean"},
        "does not fit one ratio per episode .*'gmpo'",
    ),
    "a mean of means": (GroupRelative, {**SEQUENCE, "loss_type": "gmpo"}, "'gmpo' averages over"),
    "vespo of sequences": (
        GroupRelative,
        {**SEQUENCE, "loss_type": "vespo"},
        "'vespo' averages over the episode itself.*not 'sequence'",
    ),
    "reuse without ratio": (
        GroupRelative,
        {"loss_type": "reinforce", "ppo_epochs": 2},
        "'reinforce' has no ratio.*ppo_epochs must be 1, got 2",
    ),
    "rloo with reuse": (rloo.Algorithm, {"ppo_epochs": 3}, "ppo_epochs must be 1, got 3"),
    "kl without a place": (GroupRelative, {"kl_coef": 0.1}, "kl_coef 0.1 and kl_placement 'none'"),
    "a place without kl": (
        GroupRelative,
        {"kl_placement": "reward"},
        "kl_coef 0.0 and kl_placement 'reward' do not fit",
    ),
    "grpo without kl_coef only": (grpo.Algorithm, {"kl_coef": 0.0}, "kl_placement 'loss' do not"),
    "negative kl": (GroupRelative, {"kl_coef": -1.0}, "kl_coef must not be negative, got -1"),
    "weighted kl of sequences": (
        GroupRelative,
        {**SEQUENCE, "kl_unbiased": True},
        "kl_unbiased needs one ratio per unit, not 'sequence'",
    ),
    "negative entropy": (
        GroupRelative,
        {"entropy_coef": -1.0},
        "entropy_coef must not be negative",
    ),
    "no pass": (GroupRelative, {"ppo_epochs": 0}, "ppo_epochs 0 must be at least 1"),
    "negative minibatch": (GroupRelative, {"ppo_mini_batch_size": -1}, "ppo_mini_batch_size -1"),
    "negative micro-batch": (GroupRelative, {"ppo_micro_batch_size": -1}, "micro_batch_size -1"),
    "negative target": (GroupRelative, {"target_kl": -0.1}, "target_kl must not be negative"),
    "negative scale": (GroupRelative, {"loss_scale_factor": -1.0}, "loss_scale_factor must not"),
    "no correction": (
        GroupRelative,
        {"rollout_correction_max": 0.0},
        "rollout_correction_max must be positive, got 0",
    ),
    "no rollouts": (GroupRelative, {"group_size": 0}, "group_size must be at least 1, got 0"),
    "nothing to compare": (grpo.Algorithm, {"group_size": 1}, "at least 2, got 1"),
    "nobody left": (loop.Algorithm, {"group_size": 1}, "'rloo' compares rollouts .* at least 2"),
    "window reversed": (
        GroupRelative,
        {"filter_lower": 0.9, "filter_upper": 0.1},
        "filter_lower 0.9 and filter_upper 0.1 must be shares",
    ),
    "window below 0": (GroupRelative, {"filter_lower": -0.1}, "filter_lower -0.1"),
    "window above 1": (GroupRelative, {"filter_upper": 1.5}, "filter_upper 1.5"),
    "empty window": (GroupRelative, {"filter_lower": 1.0}, "filter_lower 1.0"),
    "all of a group": (
        gfpo.Algorithm,
        {"group_size": 8},
        "num_remains_in_group 8 must be at least 2 and below group_size 8",
    ),
    "one of a group": (gfpo.Algorithm, {"num_remains_in_group": 1}, "num_remains_in_group 1 must"),
    "adaptively all": (
        gfpo.Algorithm,
        {"adaptive": True, "adaptive_sizes": (16, 8, 6, 4)},
        "adaptive_sizes 16 must be at least 2 and below group_size 16",
    ),
    "unknown attribute": (
        gfpo.Algorithm,
        {"metric": "step"},
        "unknown attribute 'step'; did you mean 'steps'.*a path package.module.function",
    ),
    "gamma above 1": (ppo.Algorithm, {"gamma": 1.1}, r"gamma must be in \[0, 1\], got 1.1"),
    "lambda below 0": (ppo.Algorithm, {"gae_lambda": -0.1}, r"gae_lambda must be in \[0, 1\]"),
    "negative critic loss": (ppo.Algorithm, {"vf_coef": -1.0}, "vf_coef must not be negative"),
    "negative critic clip": (ppo.Algorithm, {"cliprange_value": -1.0}, "cliprange_value must not"),
    "negative warm-up": (
        ppo.Algorithm,
        {"critic_warmup": -1},
        "critic_warmup must not be negative",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_cannot_work_are_refused(name):
    kind, settings, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        kind(**settings)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (GroupRelative, {"importance_sampling_level": "sequence", "clip_quantile": 0.85}),
        (GroupRelative, {**SEQUENCE, "loss_agg_mode": "seq-mean-token-sum"}),
        (GroupRelative, {"loss_type": "cispo", "clip_ratio_low": 10.0}),
        (
            GroupRelative,
            {
                **{"loss_type": "reinforce", "ppo_epochs": 1, "ppo_mini_batch_size": 0},
                "clip_ratio_low": 0.0,
            },
        ),
        (GroupRelative, {"loss_type": "vespo", "loss_agg_mode": "token-mean"}),
        (reinforce_pp.Algorithm, {"adv_estimator": "reinforce_plus_plus", "group_size": 1}),
        (grpo.Algorithm, WITHOUT_KL),
        (gfpo.Algorithm, {"group_size": 9}),
    ],
)
def test_unusual_settings_that_work_are_taken(kind, settings):
    assert kind(**settings)


def test_gfpo_refuses_an_estimator_that_it_would_ignore():
    with pytest.raises(ValueError, match="'rloo'"):
        gfpo.Algorithm(adv_estimator="rloo")
