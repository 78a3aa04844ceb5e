"""Baselines of groups against numbers worked by hand."""

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
