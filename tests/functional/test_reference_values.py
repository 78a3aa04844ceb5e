"""Every golden number of `data/policy_optimisation_vectors.json`, by the functions in use.

The letters name the material: A advantages, B step rewards, C losses and their gradients,
D critics, E filtered groups, G robot-shaped ratios. Losses are minimised; gradients are those of
log-probs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers import fake_returns, make_policy, play_groups
from vla_rl import functional as F
from vla_rl.algorithms import dapo
from vla_rl.rewards.overlong import overlong_penalty

VECTORS = json.loads(
    (Path(__file__).parents[1] / "data/policy_optimisation_vectors.json").read_text()
)
TOLERANCE = {"atol": 1e-6, "rtol": 1e-6}


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def zeros(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.long)


def padded(rows: list[list[float]], length: int = 4) -> Tensor:
    return double([row + [0.0] * (length - len(row)) for row in rows])


# ------------------------------------------------------------------------- C: losses, 3 episodes

LENGTHS = (2, 4, 3)
MASK = torch.tensor([[t < n for t in range(4)] for n in LENGTHS])
EPISODE = torch.arange(3)
ADVANTAGE = double([[1.0], [-1.0], [0.5]])
OLD = padded([[-1.0, -0.5], [-0.7, -1.2, -0.3, -2.0], [-0.4, -0.9, -1.5]])
NEW = OLD + padded([[0.25, -0.05], [0.10, -0.30, 0.02, 0.40], [-0.02, 0.03, 0.26]])
REFERENCE = OLD + padded([[0.10, -0.10], [0.0, 0.20, -0.20, 0.10], [0.05, 0.0, -0.10]])
ROLLOUT = OLD + padded([[0.05, -0.6], [0.0, 0.3, -0.9, 0.1], [0.02, 0.0, 0.01]])
UNIT_ADVANTAGE = padded([[1.0, 0.5], [-1.0, -0.2, -0.2, 0.4], [0.5, 0.5, -0.5]])


class Case(NamedTuple):
    """One way to make a loss of batch C."""

    loss_type: F.LossType = "ppo_clip"
    level: F.RatioLevel = "token"
    low: float = 0.2
    high: float = 0.2
    mode: F.Aggregation = "seq-mean-token-mean"
    c: float = 0.0
    constant: float = 1.0
    kl: float = 0.0
    unbiased: bool = False
    start: Tensor = NEW
    advantage: Tensor = ADVANTAGE

    def run(self) -> tuple[Tensor, Tensor]:
        """Loss and its gradient."""
        new = self.start.clone().requires_grad_()
        log_ratio = F.log_ratio(new, OLD, MASK, self.level, EPISODE)
        loss = F.surrogate_loss(
            self.loss_type,
            new,
            log_ratio,
            self.advantage,
            MASK,
            EPISODE,
            self.low,
            self.high,
            self.c,
        ).loss
        if self.kl:
            kl = F.divergence(new, REFERENCE, MASK, "k3")
            loss = loss + self.kl * (kl * log_ratio.exp() if self.unbiased else kl)
        weight = F.unit_weights(MASK[:, :, None], self.mode, self.constant)[:, :, 0]
        total = (weight * loss).sum()
        (gradient,) = torch.autograd.grad(total, new)
        return total.detach(), gradient


MEAN: F.Aggregation = "token-mean"
SUM: F.Aggregation = "seq-mean-token-sum"
NORM: F.Aggregation = "seq-mean-token-sum-norm"

LOSSES = {
    "C_grpo_seqmean_clip.2": Case(),
    "C_dapo_tokenmean_clip.2/.28": Case(high=0.28, mode=MEAN),
    "C_tokenmean_clip.2/.2": Case(mode=MEAN),
    "C_dr_grpo_L4": Case(mode=NORM, constant=4),
    "C_dr_grpo_L8": Case(mode=NORM, constant=8),
    "C_seqmean_tokensum": Case(mode=SUM),
    "C_dualclip_c1.4_tokenmean": Case(mode=MEAN, c=1.4),
    # The cap on the ratio of negative advantages is the dual clip under another name.
    "C_trl_delta1.3_tokenmean": Case(mode=MEAN, c=1.3),
    "C_on_policy_ratio1 (new=old) seqmean value": Case(start=OLD),
    "C_on_policy_ratio1 (new=old) tokenmean value": Case(start=OLD, mode=MEAN),
    "C_grpo_plus_.04_k3_seqmean": Case(kl=0.04),
    "C_unbiased: .04*ratio*k3 (DeepSeek-V3.2) seqmean": Case(kl=0.04, unbiased=True),
    "C_gspo_3e-4/4e-4": Case(level="sequence", low=3e-4, high=4e-4),
    "C_gspo_.2/.2": Case(level="sequence"),
    "C_gspo_.06/.12": Case(level="sequence", low=0.06, high=0.12),
    "C_WRONG gspo_.2/.2 token-mean (length weighted)": Case(level="sequence", mode=MEAN),
    "C_gmpo_.4": Case("gmpo", low=0.4, high=0.4),
    "C_gmpo_.1": Case("gmpo", low=0.1, high=0.1),
    "C_cispo_paper(no low, 1+eps_high=1.2)": Case("cispo", low=1.0, mode=MEAN),
    "C_cispo_trl(epsilon_high=5.0 is the CAP)": Case("cispo", low=1.0, high=4.0, mode=MEAN),
    "C_cispo_verl(.2/.2 two sided)": Case("cispo", mode=MEAN),
    "C_sapo_1/1.05": Case("sapo"),
    "C_luspo_2e-3/2.5e-3": Case(level="sequence", low=2e-3, high=2.5e-3, mode=SUM),
    "C_luspo_.2/.2": Case(level="sequence", mode=SUM),
    "C_vespo_tokenmean": Case("vespo", mode=MEAN),
    "C_rloo_trl_seq(unnormalised seq ratio, clip .2)": Case(level="trajectory"),
    "C_reinforce_seqmean_tokensum": Case("reinforce", mode=SUM),
}

PER_UNIT = Case(level="sequence_token", advantage=UNIT_ADVANTAGE)


def divergence_mean(estimator: F.KLEstimator) -> Tensor:
    return F.divergence(NEW, REFERENCE, MASK, estimator).sum() / MASK.sum()


def vespo_weight() -> Tensor:
    """Of every episode, from the loss of its first unit, which is ``-weight * A * logprob``."""
    log_ratio = F.log_ratio(NEW, OLD, MASK, "token", EPISODE)
    loss = F.surrogate_loss("vespo", NEW, log_ratio, ADVANTAGE, MASK, EPISODE, 0.2, 0.2).loss
    return (loss / (-ADVANTAGE * NEW))[:, 0]


# --------------------------------------------------------------------------------- A: advantages

A1 = double([1, 0, 0, 1, 1, 0, 0, 0])
A2 = double([1, 1, 1, 0, 0, 0, 0, 1])
A2_GROUP = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
A2_LENGTHS = double([2, 4, 3, 4, 4, 4, 4, 1])
A5 = double([1, 0, 1, 0])
A6 = double([[1, 1, 0, 0], [0.6, 0.2, 0, 0]])


def a2_centred() -> Tensor:
    return F.group_relative(A2, A2_GROUP, "none")


# ------------------------------------------------------------------------------- B: step rewards


def process(episode: int, length: int) -> Tensor:
    reward, scored = torch.zeros(2, 6, dtype=torch.float64), torch.zeros(2, 6, dtype=torch.bool)
    for row, steps in enumerate(({1: 0.2, 3: 0.8, 5: 1.0}, {2: 0.1, 4: 0.5})):
        for step, paid in steps.items():
            reward[row, step], scored[row, step] = paid, True
    return F.process_supervision(reward, scored, zeros(2), epsilon=1e-8, ddof=0)[episode, :length]


# ------------------------------------------------------------------------------------ D: critics


def gae(last_reward: float, final_value: float) -> Tensor:
    return F.generalised_advantage(
        double([[0, 0, 0, last_reward]]),
        double([[0.2, 0.4, 0.5, 0.7]]),
        double([final_value]),
        torch.ones(1, 4, dtype=torch.bool),
        0.99,
        0.95,
    )[0]


# ----------------------------------------------------------------------------- E: filtered groups

RETURNS = np.array([1.0, 0, 1, 1, 0, 1, 0, 1])
SUCCESS = RETURNS > 0
CONTINUOUS = np.array([0.9, 0.1, 0.7, 1.0, 0.2, 0.5, 0.0, 0.8])
ANSWER = np.array([120.0, 300, 180, 90, 300, 240, 60, 150])
ROBOT = np.array([120.0, 300, 180, 90, 300, 240, 300, 150])
SHAPED = RETURNS * (1 - 0.3 * ROBOT / 300)


def of_kept(
    kept: np.ndarray, returns: np.ndarray = RETURNS, ddof: int = 0, epsilon: float = 1e-8
) -> Tensor:
    """Advantages inside those that are kept, zero for the others."""
    out = torch.zeros(len(returns), dtype=torch.float64)
    chosen = torch.from_numpy(returns[kept])
    out[kept] = F.group_relative(chosen, zeros(len(chosen)), epsilon=epsilon, ddof=ddof)
    return out


def successes_first(score: np.ndarray, count: int) -> np.ndarray:
    """Not a rule of ours: the best successes and, where they do not suffice, failures in order."""
    return F.keep_best(np.where(SUCCESS, score, np.inf), count)


def quota(score: np.ndarray, count: int) -> np.ndarray:
    """Not a rule of ours: stratified with the share of failures rounded *down* (1 of 1.5)."""
    failures = int(count * (~SUCCESS).sum() / len(SUCCESS))
    order = np.where(SUCCESS, np.inf, np.arange(len(SUCCESS)))
    return successes_first(score, count - failures) | F.keep_best(order, failures)


def whole_group_then_fast() -> Tensor:
    whole = F.group_relative(torch.from_numpy(RETURNS), zeros(8), epsilon=1e-8, ddof=0)
    return whole * torch.from_numpy(F.keep_fast_successes(ROBOT, SUCCESS, 4))


def adaptive_sizes() -> Tensor:
    means = [0.5, 0.25, 0.75, 1, 0.125, 0.875, 0.375, 0.5, 0, 0.625]
    # Warm-up through the fourth group: the fifth is the first to be told apart.
    sizes = [
        F.adaptive_size(m, np.array(means[: i + 1]), (8, 8, 6, 4), 5) for i, m in enumerate(means)
    ]
    return double(sizes)


# ------------------------------------------------------------------------- G: robot-shaped ratios

G_LOG_RATIO = double(
    [
        [[0.02, -0.01, 0.03, 0.01], [0.10, -0.02, 0.05, 0.04]],
        [[-0.05, 0.02, -0.01, 0.03], [0.08, 0.06, 0.20, 0.10]],
    ]
)
G_EXECUTED = torch.tensor([[[1, 1, 1, 1], [1, 1, 0, 0]], [[1, 1, 1, 1], [1, 1, 1, 1]]]).bool()
G_EPISODE = torch.tensor([0, 0, 1, 1])


def g_log_ratio(level: F.RatioLevel, executed: Tensor = G_EXECUTED) -> tuple[Tensor, Tensor]:
    """Of every unit ``[R, U]`` of two episodes with two decisions of two actions of two numbers."""
    old, mask = F.at_level(torch.zeros_like(G_LOG_RATIO), executed, 2, level)
    new, _ = F.at_level(G_LOG_RATIO, executed, 2, level)
    flat = mask.flatten(0, 1)
    return F.log_ratio(new.flatten(0, 1), old.flatten(0, 1), flat, level, G_EPISODE), mask


def robot(level: F.RatioLevel, mode: F.Aggregation, executed: Tensor = G_EXECUTED) -> Tensor:
    log_ratio, mask = g_log_ratio(level, executed)
    advantage = double([[1.0], [1.0], [-1.0], [-1.0]])
    flat = mask.flatten(0, 1)
    loss = F.surrogate_loss(
        "ppo_clip", log_ratio, log_ratio, advantage, flat, G_EPISODE, 0.2, 0.28
    ).loss
    return (F.unit_weights(mask, mode).flatten(0, 1) * loss).sum()


# ----------------------------------------------------------------------------------- the numbers

VALUES: dict[str, Callable[[], Tensor]] = {
    "A1_verl_sample_1e6": lambda: F.group_relative(A1, zeros(8)),
    "A1_trl_sample_1e4": lambda: F.group_relative(A1, zeros(8), epsilon=1e-4),
    "A1_pop_1e8": lambda: F.group_relative(A1, zeros(8), epsilon=1e-8, ddof=0),
    "A1_dr_grpo": lambda: F.group_relative(A1, zeros(8), "none"),
    "A1_rloo": lambda: F.leave_one_out(A1, zeros(8)),
    "A2_trl_batch": lambda: F.group_relative(A2, A2_GROUP, "batch", epsilon=1e-4),
    "A2_rpp_baseline_tokenweighted": lambda: F.whiten(a2_centred(), A2_LENGTHS),
    "A2_rpp_baseline_seqweighted": lambda: F.whiten(a2_centred(), torch.ones_like(A2)),
    "A5_opo": lambda: F.length_weighted_baseline(A5, double([100, 300, 150, 300]), zeros(4)),
    "A6_sum_then_norm": lambda: F.group_relative(A6.sum(0), zeros(4), epsilon=1e-4),
    "B_process_0": lambda: process(0, 6),
    "B_process_1": lambda: process(1, 5),
    "C_kl_k1": lambda: divergence_mean("k1"),
    "C_kl_k2": lambda: divergence_mean("k2"),
    "C_kl_k3": lambda: divergence_mean("k3"),
    "C_gspo_ratio": lambda: F.log_ratio(NEW, OLD, MASK, "sequence", EPISODE)[:, 0].exp(),
    "C_gspo_token_grad_uniform": lambda: Case(level="sequence_token").run()[1],
    "C_gspo_token_grad_pertoken": lambda: PER_UNIT.run()[1],
    "C_gspo_token_value_pertoken": lambda: PER_UNIT.run()[0],
    "C_vespo_phi": vespo_weight,
    "C_tis_token": lambda: F.importance_weight(OLD, ROLLOUT, MASK, clip_max=100.0),
    "D_gae_terminated": lambda: gae(1.0, 0.0),
    "D_gae_truncated": lambda: gae(0.0, 0.6),
    "D_vclip": lambda: F.clipped_value_loss(
        double([0.5, 0.1]), double([0.2, 0.4]), double([1.0, 0.0]), 0.2
    ).mean(),
    "E_shortest4of8_pop": lambda: of_kept(F.keep_best(ANSWER, 4)),
    "E_shortest4of8_trl": lambda: of_kept(F.keep_best(ANSWER, 4), ddof=1, epsilon=1e-4),
    "E_tokeneff4of8_pop": lambda: of_kept(F.keep_best(-RETURNS / ANSWER, 4)),
    "E_tokeneff6of8_pop": lambda: of_kept(F.keep_best(-RETURNS / ANSWER, 6)),
    "E_successfirst6of8": lambda: of_kept(successes_first(ANSWER, 6)),
    "E_quota4of8": lambda: of_kept(quota(ANSWER, 4)),
    "E_robot_shortest4": lambda: of_kept(F.keep_best(ROBOT, 4)),
    "E_robot_shortest6": lambda: of_kept(F.keep_best(ROBOT, 6)),
    "E_robot_shaped_reward": lambda: torch.from_numpy(SHAPED),
    "E_robot_shaped_shortest4": lambda: of_kept(F.keep_best(ROBOT, 4), SHAPED),
    "E_robot_stratified4": lambda: of_kept(F.keep_stratified(ROBOT, SUCCESS, 4)),
    "E_robot_fullnorm_fast4": whole_group_then_fast,
    "E_shortest4_cont": lambda: of_kept(F.keep_best(ANSWER, 4), CONTINUOUS),
    "E_adaptive_k": adaptive_sizes,
    "G_token_unit-mean": lambda: robot("token", MEAN),
    "G_token_traj-mean": lambda: robot("token", "seq-mean-token-mean"),
    "G_action_unit-mean": lambda: robot("action", MEAN),
    "G_action_traj-mean": lambda: robot("action", "seq-mean-token-mean"),
    "G_chunk_unit-mean": lambda: robot("chunk", MEAN),
    "G_chunk_traj-mean": lambda: robot("chunk", "seq-mean-token-mean"),
    "G_token_nomask": lambda: robot("token", "seq-mean-token-mean", torch.ones_like(G_EXECUTED)),
}


@pytest.mark.parametrize("key", VALUES)
def test_value(key):
    found = VALUES[key]()
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, double(VECTORS[key]), **TOLERANCE)


@pytest.mark.parametrize("key", LOSSES)
def test_loss(key):
    torch.testing.assert_close(LOSSES[key].run()[0], double(VECTORS[key]), **TOLERANCE)


@pytest.mark.parametrize("key", [key for key in LOSSES if f"{key}_grad" in VECTORS])
def test_gradient(key):
    found = LOSSES[key].run()[1]
    torch.testing.assert_close(found, double(VECTORS[f"{key}_grad"]), **TOLERANCE)


def test_no_golden_number_is_left_out():
    gradients = {f"{key}_grad" for key in LOSSES if f"{key}_grad" in VECTORS}
    assert {*VALUES, *LOSSES, *gradients} == set(VECTORS)


# -------------------------------------------------------------- numbers that are not in the file


@pytest.mark.parametrize("key", ["C_dr_grpo_L8", "C_seqmean_tokensum", "C_luspo_2e-3/2.5e-3"])
def test_gradient_by_differences(key):
    """Those of which the file has the value only."""
    case, step = LOSSES[key], 1e-6
    gradient = case.run()[1]
    for row, unit in torch.argwhere(MASK).tolist():
        shift = torch.zeros_like(NEW)
        shift[row, unit] = step
        up, down = (case._replace(start=NEW + sign * shift).run()[0] for sign in (1, -1))
        assert gradient[row, unit].item() == pytest.approx(float(up - down) / (2 * step), abs=1e-6)


@pytest.mark.parametrize(("length", "paid"), [(16384, 0), (18432, -0.5), (20480, -1), (21000, -1)])
def test_overlong_penalty(length, paid):
    assert overlong_penalty(length, 20480, 4096) == pytest.approx(paid)


@pytest.mark.parametrize(
    ("returns", "kept"),
    [([1, 1, 1, 1], False), ([0, 0, 0, 0], False), ([1, 0, 0, 0], True), ([1, 1, 1, 0], True)],
)
def test_dynamic_sampling(returns, kept):
    group = play_groups(make_policy(), 3, 4)[0]
    algorithm = dapo.Algorithm(group_size=4)
    assert algorithm.dynamic_sampling
    assert algorithm.keep(fake_returns(group, [float(r) for r in returns])) is kept


def test_robot_ratios_at_every_level():
    def shown(level: F.RatioLevel) -> list[float]:
        log_ratio, mask = g_log_ratio(level)
        return log_ratio.exp()[mask.flatten(0, 1)].tolist()

    assert shown("action") == pytest.approx(
        [1.01005, 1.04081, 1.08329, 0.97045, 1.0202, 1.15027, 1.34986], abs=5e-6
    )
    assert shown("chunk") == pytest.approx([1.05127, 1.08329, 0.99005, 1.55271], abs=5e-6)
    assert shown("trajectory") == pytest.approx([1.13883] * 6 + [1.53726] * 8, abs=5e-6)
    assert shown("sequence") == pytest.approx([1.021903] * 6 + [1.055221] * 8, abs=5e-7)
    assert shown("sequence_token") == pytest.approx(shown("sequence"))


def test_jitter_is_no_contrast():
    # 1e-7 apart; an epsilon of 1e-8 in the denominator would make +1.25 and -0.417 of it
    jitter = double([1.0 + 1e-7, 1.0, 1.0, 1.0])
    assert not F.group_relative(jitter, zeros(4), epsilon=1e-8).any()


@pytest.mark.parametrize(
    ("scale", "expected"),
    [("group", [0.70415, 0.440469, -1.144619]), ("none", [0.34374, 0.215021, -0.55876])],
)
def test_discounted_returns_of_one_state(scale, expected):
    # three visits of a state, 2 and 5 steps before a success and never, discounted by 0.95
    returns = double([0.95**2, 0.95**5, 0.0])
    found = F.group_relative(returns, zeros(3), scale)
    torch.testing.assert_close(found, double(expected), atol=5e-6, rtol=0)
