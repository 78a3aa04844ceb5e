"""KL divergences and correcting weights against numbers worked by hand."""

import math

import torch

from vla_rl import functional as F


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
