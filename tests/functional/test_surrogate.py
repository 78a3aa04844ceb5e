"""Surrogate losses against numbers worked by hand."""

import math

import pytest
import torch

from vla_rl import functional as F


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


@pytest.mark.parametrize("mode", F.AGGREGATIONS)
@pytest.mark.parametrize("loss_type", ["ppo_clip", "cispo", "sapo", "reinforce", "vespo", "gmpo"])
def test_at_a_ratio_of_one_the_gradient_is_minus_the_weighted_advantage(loss_type, mode):
    mask = torch.tensor([[True, True, False], [True, True, True]])
    advantage = torch.tensor([[2.0], [-0.5]], dtype=torch.float64)
    new = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    new.requires_grad_()
    episode = torch.arange(2)
    ratio = F.log_ratio(new, new.detach(), mask, "token", episode)
    loss = F.surrogate_loss(loss_type, new, ratio, advantage, mask, episode, 0.2, 0.2).loss
    weight = F.unit_weights(mask[:, :, None], mode, 5.0)[:, :, 0].double()
    (gradient,) = torch.autograd.grad((weight * loss).sum(), new)
    torch.testing.assert_close(gradient, -weight * advantage)
    if loss_type in ("ppo_clip", "gmpo"):
        torch.testing.assert_close((weight * loss).sum(), -(weight * advantage).sum())


def test_gspo_of_single_units_is_grpo():
    torch.manual_seed(0)
    old = torch.randn(6, 1, dtype=torch.float64)
    new = (old + 0.2 * torch.randn(6, 1, dtype=torch.float64)).requires_grad_()
    advantage = torch.tensor([1.0, -1.0, 0.5, -0.5, 2.0, -2.0], dtype=torch.float64)[:, None]
    mask, episode = torch.ones(6, 1, dtype=torch.bool), torch.arange(6)
    results = []
    for level in ("token", "sequence"):
        ratio = F.log_ratio(new, old, mask, level, episode)
        out = F.surrogate_loss("ppo_clip", new, ratio, advantage, mask, episode, 0.1, 0.1)
        results.append((out.loss.detach(), *torch.autograd.grad(out.loss.sum(), new)))
    for left, right in zip(*results, strict=True):
        assert torch.equal(left, right)


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
