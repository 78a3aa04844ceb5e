"""Advantages and returns against numbers worked by hand."""

import math

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


# ---------------------------------------------------------------------------- contrast and rounding


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


def test_a_critics_advantages_are_whitened_over_the_batch_with_a_floor():
    valid = torch.tensor([[True, True], [True, False]])
    advantage = torch.tensor([[1.0, 2.0], [6.0, 0.0]])
    white = F.whiten_advantages(advantage, valid, floor=0.1)
    # mean 3, deviation sqrt((4 + 1 + 9) / 2) = 2.645751
    expected = torch.tensor([[-2.0, -1.0], [3.0, 0.0]]) / 2.645751
    torch.testing.assert_close(white, expected)
    little = F.whiten_advantages(advantage / 1000, valid, floor=0.1)
    torch.testing.assert_close(little, torch.tensor([[-0.02, -0.01], [0.03, 0.0]]))
    equal = F.whiten_advantages(torch.full((2, 2), 0.1), valid, floor=0.0)
    assert not equal.any()
