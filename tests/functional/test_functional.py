"""Every function against numbers worked by hand."""

import math

import numpy as np
import pytest
import torch

from vla_rl import functional as F


def test_leave_one_out_by_hand():
    returns = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    advantage = F.leave_one_out(returns, torch.zeros(8, dtype=torch.long))
    # 3 successes of 8: (8-3)/7 for a success, -3/7 for a failure
    expected = [5 / 7 if r else -3 / 7 for r in returns]
    torch.testing.assert_close(advantage, torch.tensor(expected))
    assert advantage.sum().abs() < 1e-6


def test_leave_one_out_keeps_groups_apart():
    returns = torch.tensor([1.0, 0.0, 5.0, 5.0])
    advantage = F.leave_one_out(returns, torch.tensor([7, 7, 9, 9]))
    torch.testing.assert_close(advantage, torch.tensor([1.0, -1.0, 0.0, 0.0]))


def test_leave_one_out_refuses_a_group_of_one():
    with pytest.raises(ValueError, match="at least 2"):
        F.leave_one_out(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0, 0, 1]))


def test_levels_sum_executed_units_only():
    logprob = torch.arange(1.0, 7.0).reshape(1, 6)  # H = 3 actions of 2 units
    mask = torch.tensor([[True, True, True, True, False, False]])
    token, _ = F.at_level(logprob, mask, 3, "token")
    action, action_mask = F.at_level(logprob, mask, 3, "action")
    chunk, chunk_mask = F.at_level(logprob, mask, 3, "chunk")
    assert token.tolist() == [[1, 2, 3, 4, 0, 0]]
    assert action.tolist() == [[3, 7, 0]]
    assert action_mask.tolist() == [[True, True, False]]
    assert chunk.tolist() == [[10]]
    assert chunk_mask.tolist() == [[True]]


def test_unknown_level_names_the_allowed_ones():
    with pytest.raises(ValueError, match="'word'.*token, action, chunk"):
        F.at_level(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), 2, "word")  # type: ignore[arg-type]


def surrogate(loss_type, new, advantage, low=0.2, high=0.2, c=0.0, mask=None, old=0.0):
    """One unit per row, every row its own episode, unless ``new`` has more columns."""
    new = new if new.dim() > 1 else new[:, None]
    advantage = advantage if advantage.dim() > 1 else advantage[:, None]
    mask = torch.ones(new.shape, dtype=torch.bool) if mask is None else mask.view(new.shape)
    episode = torch.arange(len(new))
    ratio = F.log_ratio(new, torch.full_like(new, old).detach(), mask, "token", episode)
    return F.surrogate_loss(loss_type, new, ratio, advantage, mask, episode, low, high, c)


def test_clipped_surrogate_by_hand():
    # ratios 1.5, 1.5, 0.5, 0.5, 1.0 with advantages +1, -1, +1, -1, +1 and clip 0.2 / 0.3
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.0])
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    new = ratio.log().requires_grad_()
    out = surrogate("ppo_clip", new, advantage, 0.2, 0.3)
    torch.testing.assert_close(out.loss[:, 0], torch.tensor([-1.3, 1.5, -0.5, 0.8, -1.0]))
    assert out.clipped[:, 0].tolist() == [True, False, False, True, False]
    out.loss.sum().backward()
    # the gradient is -A * ratio where not clipped and zero where clipped
    torch.testing.assert_close(new.grad, torch.tensor([0.0, 1.5, -0.5, 0.0, -1.0]))


def test_dual_clip_bounds_unlikely_actions_with_negative_advantage():
    # ratios 4, 2 and 4 with advantages -1, -1 and +1; negative ones count 3 at most
    new = torch.tensor([4.0, 2.0, 4.0]).log().requires_grad_()
    out = surrogate("ppo_clip", new, torch.tensor([-1.0, -1.0, 1.0]), c=3.0)
    torch.testing.assert_close(out.loss[:, 0], torch.tensor([3.0, 2.0, -1.2]))
    assert out.clipped[:, 0].tolist() == [True, False, True]
    out.loss.sum().backward()
    torch.testing.assert_close(new.grad, torch.tensor([0.0, 2.0, 0.0]))


def test_cispo_drops_no_gradient_and_has_no_lower_bound():
    # ratios 1.5, 0.01 and 1.1, at most 1.28: only weights of the gradient of the log-probability
    new = torch.tensor([1.5, 0.01, 1.1]).log().requires_grad_()
    advantage = torch.tensor([1.0, -1.0, 2.0])
    out = surrogate("cispo", new, advantage, low=1.0, high=0.28)
    weight = torch.tensor([1.28, 0.01, 1.1])
    torch.testing.assert_close(out.loss[:, 0], -weight * advantage * new.detach())
    assert out.clipped[:, 0].tolist() == [True, False, False]
    out.loss.sum().backward()
    torch.testing.assert_close(new.grad, -weight * advantage)


def test_cispo_with_a_lower_bound():
    new = torch.tensor([0.01, 0.9]).log()
    out = surrogate("cispo", new, torch.ones(2), low=0.2, high=0.2)
    torch.testing.assert_close(out.loss[:, 0], -torch.tensor([0.8, 0.9]) * new)
    assert out.clipped[:, 0].tolist() == [True, False]


def test_sapo_gate_by_hand():
    # ratio 1: half of the gate's height of 4 / tau, and the plain policy gradient
    new = torch.zeros(2).requires_grad_()
    out = surrogate("sapo", new, torch.tensor([1.0, -1.0]))
    torch.testing.assert_close(out.loss[:, 0], torch.tensor([-2.0, 2 / 1.05]))
    out.loss.sum().backward()
    torch.testing.assert_close(new.grad, torch.tensor([-1.0, 1.0]))
    assert not out.clipped.any()


def test_gmpo_clips_single_units_inside_the_geometric_mean():
    # log-ratios 0.6 and 0.2, clipped to 0.4 and 0.2 for a positive advantage: exp(0.3)
    new = torch.tensor([[0.6, 0.2]]).requires_grad_()
    out = surrogate("gmpo", new, torch.tensor([2.0]), 0.4, 0.4)
    torch.testing.assert_close(out.loss, torch.full((1, 2), -2 * math.exp(0.3)))
    assert out.clipped.tolist() == [[True, False]]
    # and not at all for a negative one, whose ratio may grow
    out = surrogate("gmpo", new, torch.tensor([-2.0]), 0.4, 0.4)
    torch.testing.assert_close(out.loss, torch.full((1, 2), 2 * math.exp(0.4)))
    assert not out.clipped.any()


def test_vespo_weight_is_one_on_policy():
    new = torch.full((2, 3), -0.5).requires_grad_()
    out = surrogate("vespo", new, torch.tensor([1.0, -1.0]), old=-0.5)
    torch.testing.assert_close(out.loss, torch.tensor([[0.5] * 3, [-0.5] * 3]))


def test_masked_units_give_neither_loss_nor_gradient():
    for loss_type in F.LOSS_TYPES:
        new = torch.tensor([[3.0, 0.1]]).requires_grad_()
        mask = torch.tensor([[False, True]])
        out = surrogate(loss_type, new, torch.ones(1), 0.2, 0.2, mask=mask)
        out.loss.sum().backward()
        assert out.loss[0, 0] == 0
        assert not out.clipped[0, 0]
        assert new.grad[0, 0] == 0
        assert new.grad[0, 1] != 0


def test_extreme_log_ratios_stay_finite():
    for loss_type in F.LOSS_TYPES:
        new = torch.tensor([500.0, -500.0]).requires_grad_()
        out = surrogate(loss_type, new, -torch.ones(2))
        out.loss.sum().backward()
        assert torch.isfinite(out.loss).all()
        assert torch.isfinite(new.grad).all()


def test_sequence_ratio_is_the_geometric_mean_of_executed_units():
    # one episode of two decisions, log-ratios 0.1, 0.2 and 0.6, the fourth not executed
    new = torch.tensor([[0.1, 0.2], [0.6, 9.0]]).requires_grad_()
    mask = torch.tensor([[True, True], [True, False]])
    together = torch.tensor([4, 4])
    ratio = F.log_ratio(new, torch.zeros(2, 2), mask, "sequence", together)
    torch.testing.assert_close(ratio, torch.full((2, 2), 0.3))
    product = F.log_ratio(new, torch.zeros(2, 2), mask, "trajectory", together)
    torch.testing.assert_close(product, torch.full((2, 2), 0.9))
    ratio[0, 0].backward()
    torch.testing.assert_close(new.grad, torch.tensor([[1.0, 1.0], [1.0, 0.0]]) / 3)


def test_sequence_token_ratio_has_the_gradient_of_its_unit():
    new = torch.tensor([[0.1, 0.2], [0.6, 9.0]]).requires_grad_()
    mask = torch.tensor([[True, True], [True, False]])
    ratio = F.log_ratio(new, torch.zeros(2, 2), mask, "sequence_token", torch.tensor([4, 4]))
    torch.testing.assert_close(ratio.detach()[mask], torch.full((3,), 0.3))
    ratio[0, 1].backward()
    assert new.grad.tolist() == [[0.0, 1.0], [0.0, 0.0]]


def test_episodes_of_a_batch_have_their_own_sequence_ratio():
    new = torch.tensor([[0.1], [0.5], [0.3]])
    ratio = F.log_ratio(new, torch.zeros(3, 1), new > 0, "sequence", torch.tensor([1, 0, 1]))
    torch.testing.assert_close(ratio[:, 0], torch.tensor([0.2, 0.5, 0.2]))


# --------------------------------------------------------------------------------------- divergence


def test_divergence_by_hand():
    new, reference = torch.tensor([math.log(2.0), 7.0]), torch.tensor([0.0, 0.0])
    mask = torch.tensor([True, False])
    for estimator, expected in (
        ("k1", math.log(2)),
        ("k2", math.log(2) ** 2 / 2),
        ("k3", 1 / 2 + math.log(2) - 1),
    ):
        kl = F.divergence(new, reference, mask, estimator)  # type: ignore[arg-type]
        torch.testing.assert_close(kl, torch.tensor([expected, 0.0]))


def test_divergence_is_cut_where_log_probs_are_far_apart():
    far = torch.tensor([-500.0, 500.0])
    here = torch.ones(2, dtype=torch.bool)
    assert F.divergence(far, torch.zeros(2), here, "k1").tolist() == [-20.0, 20.0]
    assert F.divergence(far, torch.zeros(2), here, "k2").tolist() == [200.0, 200.0]
    # exp(20) would swamp everything else; the other side is linear: exp(-20) + 20 - 1, cut too
    assert F.divergence(far, torch.zeros(2), here, "k3").tolist() == [10.0, 10.0]


def test_importance_weight_is_truncated_and_has_no_gradient():
    old = torch.tensor([math.log(1.5), math.log(9.0), 3.0]).requires_grad_()
    mask = torch.tensor([True, True, False])
    weight = F.importance_weight(old, torch.zeros(3), mask, 2.0)
    torch.testing.assert_close(weight, torch.tensor([1.5, 2.0, 0.0]))
    assert not weight.requires_grad


# --------------------------------------------------------------------------------------- advantages


def test_group_relative_by_hand():
    # mean 0.25 and sample deviation 0.5 in the one group; 2 and sqrt(2) in the other
    returns = torch.tensor([1.0, 0.0, 0.0, 0.0, 3.0, 1.0])
    group = torch.tensor([5, 5, 5, 5, 2, 2])
    centred = torch.tensor([0.75, -0.25, -0.25, -0.25, 1.0, -1.0])
    found = F.group_relative(returns, group, epsilon=0.0)
    deviation = torch.tensor([0.5, 0.5, 0.5, 0.5, math.sqrt(2), math.sqrt(2)])
    torch.testing.assert_close(found, centred / deviation)
    torch.testing.assert_close(F.group_relative(returns, group, "none"), centred)
    batch = F.group_relative(returns, group, "batch", epsilon=0.0)
    torch.testing.assert_close(batch, centred / returns.std())


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_equal_returns_have_no_advantage(scale):
    # 0.1 is not exact in binary, so a plain mean would leave crumbs to be divided by epsilon
    returns = torch.tensor([0.1] * 7 + [0.1 + 1e-7, 0.0, 1.0])
    group = torch.tensor([0] * 8 + [1] * 2)
    found = F.group_relative(returns, group, scale)
    assert (found[:8] == 0).all()
    assert (found[8:] != 0).all()


def test_group_relative_refuses_a_group_of_one_and_unknown_scales():
    with pytest.raises(ValueError, match="at least 2"):
        F.group_relative(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0, 0, 1]))
    with pytest.raises(ValueError, match=r"'prompt'.*group, batch, none"):
        F.group_relative(torch.tensor([1.0, 0.0]), torch.tensor([0, 0]), "prompt")  # type: ignore[arg-type]


def test_the_length_weighted_baseline_is_that_of_units():
    # 100 units with return 1 and 300 with return 0: a unit has 1/4 on average
    found = F.length_weighted_baseline(
        torch.tensor([1.0, 0.0]), torch.tensor([100, 300]), torch.tensor([0, 0])
    )
    torch.testing.assert_close(found, torch.tensor([0.75, -0.25]))


def test_whitening_by_hand():
    values = torch.tensor([3.0, 1.0, 1.0, 1.0])
    # mean 1.5; the unbiased variance is (2.25 + 3 * 0.25) / 3 = 1
    torch.testing.assert_close(
        F.whiten(values, torch.ones(4)), torch.tensor([1.5, -0.5, -0.5, -0.5])
    )
    # a weight stands for so many samples
    weighted = F.whiten(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(weighted, torch.tensor([1.5, -0.5]))
    assert torch.isfinite(F.whiten(torch.ones(3), torch.ones(3))).all()
    assert F.whiten(torch.ones(1), torch.ones(1)).tolist() == [0.0]


def test_returns_to_go_by_hand():
    reward = torch.tensor([[1.0, 0.0, 2.0], [0.0, 4.0, 0.0]])
    assert F.returns_to_go(reward).tolist() == [[3, 2, 2], [4, 4, 0]]
    assert F.returns_to_go(reward, 0.5).tolist() == [[1.5, 1, 2], [2, 4, 0]]


def test_process_supervision_credits_what_is_still_to_come():
    # all four scored rewards of the group have mean 1 and population deviation 1
    reward = torch.tensor([[2.0, 0.0, 2.0], [0.0, 9.0, 0.0]])
    scored = torch.tensor([[True, False, True], [True, False, True]])
    found = F.process_supervision(reward, scored, torch.tensor([0, 0]), epsilon=0.0, ddof=0)
    assert found.tolist() == [[2, 1, 1], [-2, -1, -1]]


def gae(reward, value, final_value, valid, gamma=0.5, gae_lambda=0.5):
    return F.generalised_advantage(
        torch.tensor(reward),
        torch.tensor(value),
        torch.tensor(final_value),
        torch.tensor(valid),
        gamma,
        gae_lambda,
    )


def test_generalised_advantage_by_hand():
    # d1 = 1 + 0 - 2 = -1 (terminated);  d0 = 0 + 0.5 * 2 - 1 = 0;  A0 = d0 + 0.25 * d1
    assert gae([[0.0, 1.0]], [[1.0, 2.0]], [0.0], [[True, True]]).tolist() == [[-0.25, -1.0]]
    # cut by the time limit where the critic saw 4: d1 = 1 + 0.5 * 4 - 2 = 1
    assert gae([[0.0, 1.0]], [[1.0, 2.0]], [4.0], [[True, True]]).tolist() == [[0.25, 1.0]]


def test_padding_changes_nothing_in_generalised_advantages():
    # the same two episodes beside a longer one; what stands in the padding must not count
    valid = [[True, True, False], [True, True, False], [True, True, True]]
    reward = [[0.0, 1.0, 7.0], [0.0, 1.0, 7.0], [0.0, 0.0, 1.0]]
    value = [[1.0, 2.0, 7.0], [1.0, 2.0, 7.0], [0.0, 0.0, 0.0]]
    found = gae(reward, value, [0.0, 4.0, 0.0], valid)
    assert found.tolist() == [[-0.25, -1.0, 0.0], [0.25, 1.0, 0.0], [0.0625, 0.25, 1.0]]


def test_generalised_advantage_between_its_extremes():
    reward, value = [[0.0, 0.0, 3.0]], [[0.5, 1.0, 2.0]]
    valid = [[True, True, True]]
    whole = gae(reward, value, [0.0], valid, 1.0, 1.0)
    torch.testing.assert_close(whole, 3.0 - torch.tensor(value))  # return minus value
    one_step = gae(reward, value, [0.0], valid, 1.0, 0.0)
    torch.testing.assert_close(one_step, torch.tensor([[0.5, 1.0, 1.0]]))


def test_the_critic_is_not_rewarded_for_leaving_its_old_value():
    value = torch.tensor([0.9, 0.9, 0.3]).requires_grad_()
    old, target = torch.tensor([0.2, 0.2, 0.2]), torch.tensor([1.0, 0.0, 1.0])
    loss = F.clipped_value_loss(value, old, target, 0.2)
    # towards the target but too far: as if at 0.4, no gradient; away from it: the plain error
    torch.testing.assert_close(loss, torch.tensor([0.36, 0.81, 0.49]) / 2)
    loss.sum().backward()
    torch.testing.assert_close(value.grad, torch.tensor([0.0, 0.9, -0.7]))
    plain = F.clipped_value_loss(value, old, target, 0.0)
    torch.testing.assert_close(plain, (value - target).square() / 2)


# ---------------------------------------------------------------------------------------- retention


def kept(found):
    return np.flatnonzero(found).tolist()


def test_keep_best_takes_the_first_of_equals():
    assert kept(F.keep_best(np.array([3.0, 1.0, 1.0, 1.0]), 2)) == [1, 2]
    assert kept(F.keep_best(np.array([3.0, 1.0]), 5)) == [0, 1]


SCORE = np.array([10.0, 2.0, 5.0, 3.0, 1.0, 4.0])


@pytest.mark.parametrize(
    ("success", "count", "expected"),
    [
        ("110110", 3, [1, 2, 4]),  # 1 failure (of 1.0), the first; 2 best successes
        ("111111", 3, [1, 3, 4]),  # nothing but successes: the best ones
        ("000000", 3, [0, 1, 2]),  # nothing but failures: the first ones
        ("000010", 3, [0, 1, 4]),  # 2.5 failures round to 2, and there is room for the success
        ("100000", 2, [0, 1]),  # 1.7 failures would fill both places
        ("111101", 2, [1, 4]),  # 0.3 failures round to none, yet one is kept
        ("000011", 4, [0, 1, 2, 4]),  # 2.7 failures round to 3
    ],
)
def test_keep_stratified(success, count, expected):
    solved = np.array([c == "1" for c in success])
    assert kept(F.keep_stratified(SCORE, solved, count)) == expected


@pytest.mark.parametrize(
    ("success", "count", "expected"),
    [
        ("110110", 2, [1, 2, 4, 5]),  # every failure and two of four successes
        ("111111", 2, [1, 4]),  # no failures
        ("000000", 2, [0, 1, 2, 3, 4, 5]),  # no successes
        ("000010", 3, [0, 1, 2, 3, 4, 5]),  # fewer successes than asked for
    ],
)
def test_keep_fast_successes(success, count, expected):
    solved = np.array([c == "1" for c in success])
    assert kept(F.keep_fast_successes(SCORE, solved, count)) == expected


def test_adaptive_size_by_hand():
    sizes, history = (8, 7, 6, 4), np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    found = [F.adaptive_size(m, history, sizes, 5) for m in (0.0, 0.3, 0.6, 0.9)]
    assert found == [8, 7, 6, 4]


def test_a_tie_with_a_quartile_counts_as_the_easier_start():
    sizes, history = (8, 7, 6, 4), np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    found = [F.adaptive_size(m, history, sizes, 5) for m in (0.25, 0.5, 0.75)]
    assert found == [7, 6, 4]
    # as many groups with small sizes have: every quartile is the same
    assert F.adaptive_size(0.5, np.full(9, 0.5), sizes, 5) == 4
    assert F.adaptive_size(0.4, np.full(9, 0.5), sizes, 5) == 8


def test_before_enough_groups_were_seen_every_start_counts_as_very_hard():
    assert F.adaptive_size(1.0, np.array([0.0, 0.5, 1.0]), (8, 7, 6, 4), 4) == 8


# -------------------------------------------------------------------------------------- aggregation


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: surrogate("grpo", torch.zeros(1), torch.zeros(1)), r"'grpo'.*ppo_clip, cispo"),
        (lambda: F.unit_weights(torch.ones(1, 1, 1), "mean"), r"'mean'.*seq-mean-token-mean, tok"),  # type: ignore[arg-type]
        (
            lambda: F.divergence(torch.zeros(1), torch.zeros(1), torch.ones(1).bool(), "k4"),  # type: ignore[arg-type]
            r"'k4'.*k1, k2, k3",
        ),
    ],
)
def test_unknown_names_list_the_allowed_ones(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        # two episodes with 2 and 4 executed units
        ("seq-mean-token-mean", [[1 / 4, 1 / 4, 0, 0], [1 / 8, 1 / 8, 1 / 8, 1 / 8]]),
        ("token-mean", [[1 / 6, 1 / 6, 0, 0], [1 / 6, 1 / 6, 1 / 6, 1 / 6]]),
        ("seq-mean-token-sum", [[1 / 2, 1 / 2, 0, 0], [1 / 2, 1 / 2, 1 / 2, 1 / 2]]),
        ("seq-mean-token-sum-norm", [[1 / 8, 1 / 8, 0, 0], [1 / 8, 1 / 8, 1 / 8, 1 / 8]]),
    ],
)
@pytest.mark.parametrize("filtered", [0, 3])
def test_unit_weights_by_hand(mode, expected, filtered):
    # episodes of which nothing is left count in no denominator
    mask = torch.zeros(2 + filtered, 2, 2, dtype=torch.bool)
    mask[:2] = torch.tensor([[[True, True], [False, False]], [[True, True], [True, True]]])
    weights = F.unit_weights(mask, mode, 4.0).flatten(1)
    expected = expected + [[0.0] * 4] * filtered
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32))


def test_a_batch_of_which_nothing_is_left_has_no_weights():
    for mode in F.AGGREGATIONS:
        assert not F.unit_weights(torch.zeros(2, 2, 2, dtype=torch.bool), mode).any()  # type: ignore[arg-type]


def test_only_the_sequence_mean_is_neutral_to_long_failures():
    # three successes of 100 units, one failure of 300, leave-one-out advantages of the group
    mask = torch.zeros(4, 300, 1, dtype=torch.bool)
    for row, units in enumerate([100, 100, 100, 300]):
        mask[row, :units] = True
    advantage = F.leave_one_out(torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.zeros(4).long())
    push = {
        mode: float((F.unit_weights(mask, mode) * advantage[:, None, None]).sum())
        for mode in ("seq-mean-token-mean", "token-mean")
    }
    assert push["seq-mean-token-mean"] == pytest.approx(0.0, abs=1e-6)
    assert push["token-mean"] < -0.3


def test_minibatch_weights_add_up_to_the_batch():
    torch.manual_seed(0)
    mask = torch.rand(5, 7, 3) > 0.3
    loss = torch.randn(5, 7, 3)
    weights = F.unit_weights(mask, "seq-mean-token-mean")
    whole = (weights * loss).sum()
    parts = sum((weights[:, t] * loss[:, t]).sum() for t in range(7))
    torch.testing.assert_close(whole, parts)


# ------------------------------------------------------------------------ contrast and rounding


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e6])
def test_contrast_is_relative_to_the_size_of_the_returns(unit):
    group = torch.zeros(4, dtype=torch.long)
    crumbs = unit * torch.tensor([100.0, 100.0, 100.00001, 99.99999])  # of summing floats
    assert not F.has_contrast(crumbs)
    assert not F.group_relative(crumbs, group).any()
    assert not F.leave_one_out(crumbs, group).any()
    real = unit * torch.tensor([100.0, 100.0, 100.1, 99.9])
    assert F.has_contrast(real)
    assert float(F.group_relative(real, group).abs().max()) > 0.5
    assert not F.has_contrast(torch.zeros(4))
    assert not F.has_contrast(torch.zeros(0))


def test_equal_values_but_for_rounding_are_whitened_to_nothing():
    values = torch.tensor([0.3, 0.3, 0.3 + 1e-8])
    assert F.whiten(values, torch.ones(3)).tolist() == [0, 0, 0]


def test_returns_to_go_with_what_follows_the_end():
    reward = torch.tensor([[1.0, 2.0, 0.0], [1.0, 1.0, 1.0]])
    valid = torch.tensor([[True, True, False], [True, True, True]])
    found = F.returns_to_go(reward, 0.5, torch.tensor([8.0, 0.0]), valid)
    # 2 + 8 / 2 = 6 and 1 + 6 / 2 = 4; 1, 1.5 and 1.75
    assert found.tolist() == [[4.0, 6.0, 0.0], [1.75, 1.5, 1.0]]
