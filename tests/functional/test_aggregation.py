"""How units weigh in a loss, by hand."""

import pytest
import torch

from vla_rl import functional as F


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
