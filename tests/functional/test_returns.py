"""Returns, advantages of single decisions and the loss of a critic, by numbers worked by hand."""

import torch

from vla_rl import functional as F


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
