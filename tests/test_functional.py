"""Every function against numbers worked by hand."""

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


def test_clipped_surrogate_by_hand():
    # ratios 1.5, 1.5, 0.5, 0.5, 1.0 with advantages +1, -1, +1, -1, +1 and clip 0.2 / 0.3
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.0])
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    new = ratio.log().requires_grad_()
    out = F.clipped_surrogate(
        new, torch.zeros(5), advantage, torch.ones(5, dtype=torch.bool), 0.2, 0.3
    )
    torch.testing.assert_close(out.loss, torch.tensor([-1.3, 1.5, -0.5, 0.8, -1.0]))
    assert out.clipped.tolist() == [True, False, False, True, False]
    out.loss.sum().backward()
    # the gradient is -A * ratio where not clipped and zero where clipped
    torch.testing.assert_close(new.grad, torch.tensor([0.0, 1.5, -0.5, 0.0, -1.0]))
    assert out.kl[0] == pytest.approx(1.5 - 1 - math.log(1.5))


def test_masked_units_give_neither_loss_nor_gradient():
    new = torch.tensor([3.0, 0.1]).requires_grad_()
    mask = torch.tensor([False, True])
    out = F.clipped_surrogate(new, torch.zeros(2), torch.ones(2), mask, 0.2, 0.2)
    out.loss.sum().backward()
    assert out.loss[0] == 0
    assert out.kl[0] == 0
    assert new.grad[0] == 0
    assert new.grad[1] != 0


def test_extreme_log_ratios_stay_finite():
    new = torch.tensor([500.0, -500.0]).requires_grad_()
    out = F.clipped_surrogate(
        new, torch.zeros(2), -torch.ones(2), torch.ones(2, dtype=torch.bool), 0.2, 0.2
    )
    out.loss.sum().backward()
    assert torch.isfinite(out.loss).all()
    assert torch.isfinite(new.grad).all()


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        # two episodes with 2 and 4 executed units
        ("seq-mean-token-mean", [[1 / 4, 1 / 4, 0, 0], [1 / 8, 1 / 8, 1 / 8, 1 / 8]]),
        ("token-mean", [[1 / 6, 1 / 6, 0, 0], [1 / 6, 1 / 6, 1 / 6, 1 / 6]]),
        ("seq-mean-token-sum", [[1 / 2, 1 / 2, 0, 0], [1 / 2, 1 / 2, 1 / 2, 1 / 2]]),
    ],
)
def test_unit_weights_by_hand(mode, expected):
    mask = torch.tensor([[[True, True], [False, False]], [[True, True], [True, True]]])
    weights = F.unit_weights(mask, mode).flatten(1)
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32))


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
