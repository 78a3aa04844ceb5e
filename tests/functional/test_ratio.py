"""Levels, ratios and divergences against numbers worked by hand."""

import pytest
import torch

from vla_rl import functional as F


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
