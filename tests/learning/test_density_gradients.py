"""What the densities of action heads claim: values, gradients and ratios against known answers.

A value alone proves little: a log-prob that is right where it was sampled may have a wrong
gradient. So here a reward is one sampled number, whose expectation has a known gradient in the
means of the chunk, and the policy gradient of many sampled decisions must meet it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor, nn

from tests.helpers import head_config
from vla_rl.action_head import DENSITIES, Exactness
from vla_rl.policies import _heads
from vla_rl.policies._heads import exploration_noise, flow
from vla_rl.policies._heads.config import Size
from vla_rl.policies._heads.correlated import CorrelatedHead
from vla_rl.policies._heads.gaussian import GaussianHead
from vla_rl.policies._heads.laplace import LaplaceHead

H, A = 4, 2
K = H * A
RHO, SHARE = 0.5, 0.2
REWARDED = 3  # unit whose sample is the reward: dimension 1 of step 1
MINE = np.arange(1, K, 2)  # units of that dimension
STD = 0.3
WORDS = torch.zeros(0)
COVARIANCE = exploration_noise.covariance(H, RHO, SHARE)
ANEW = exploration_noise.covariance(H, RHO, 0.0)
SURE = 4.5  # standard errors

HEADS: dict[str, dict[str, Any]] = {
    "gaussian": {"head": "gaussian", "std": STD},
    "laplace": {"head": "laplace", "std": STD},
    "sde": {"head": "flow_sde", "denoising_steps": 2, "noise_level": 0.8},
    "one": {
        "head": "flow_sde",
        "denoising_steps": 2,
        "noise_level": 0.8,
        "stochastic": "one",
    },
    "noise": {"head": "flow_noise", "denoising_steps": 2, "noise_std": (0.2, 0.5)},
}


class Said(nn.Module):
    """A network that says given numbers, one row for each decision, whatever it reads."""

    def __init__(self, rows: int, units: int = K) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.linspace(-0.3, 0.3, units).repeat(rows, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        """``[B, K]``, or the same at all S samples of a row ``[B, S, K]``."""
        return (
            self.values if inputs.ndim == 2 else self.values[:, None].expand(*inputs.shape[:2], -1)
        )


def make(name: str, density: str, rows: int, **settings: Any) -> CorrelatedHead:
    """A head whose means are parameters of their own in every row."""
    torch.manual_seed(0)
    whole = {"rho": RHO, "episode_share": SHARE, **HEADS[name], "density": density, **settings}
    size = Size(whole.pop("chunk", H), A, context_dim=1, hidden=(8,))
    head = _heads.make(head_config(**whole), size)
    assert isinstance(head, CorrelatedHead)
    if isinstance(head, flow.FlowHead):
        head.denoiser = Said(rows)  # type: ignore[assignment]
    else:
        head.trunk = Said(rows)
    return head


def means(head: CorrelatedHead) -> nn.Parameter:
    """What the network of :func:`make` says, ``[B, K]``."""
    network = head.denoiser if isinstance(head, flow.FlowHead) else head.trunk
    assert isinstance(network, Said)
    return network.values


def keys(episodes: int, decisions: int = 1) -> np.ndarray:
    """``[episodes * decisions, 2]``, episode by episode."""
    episode, decision = np.meshgrid(np.arange(episodes), np.arange(decisions), indexing="ij")
    return np.stack([episode.ravel() + 7_000, decision.ravel()], axis=1)


class Played(NamedTuple):
    """Decisions that were sampled.

    Attributes:
        raw: ``[B, R]``.
        last: ``[B, K]`` the samples that rewards are made of, not clipped.
        score: ``[B, K]`` gradient of a decision's log-prob in the means.
    """

    raw: Tensor
    last: Tensor
    score: Tensor


def play(head: CorrelatedHead, order: np.ndarray) -> Played:
    """Sample a decision for each key, and score it."""
    context = torch.zeros(len(order), 1)
    with torch.no_grad():
        raw = head.sample(context, WORDS, order).raw
    logprob, _ = head.score(context, WORDS, raw)
    (score,) = torch.autograd.grad(logprob.sum(), means(head))
    if isinstance(head, flow.OneStepFlowSDE):
        last = raw[:, 1 + K : 1 + 2 * K]  # after the random step, all that the log-prob is of
    elif isinstance(head, flow.FlowHead):
        last = raw[:, head.steps * K : (head.steps + 1) * K]
    else:
        last = raw[:, :K]
    return Played(raw, last, score)


def truth(head: CorrelatedHead, order: np.ndarray) -> float:
    """Derivative of the expected reward in its own mean; in other means it is 0."""
    if not isinstance(head, flow.FlowHead):
        return 1.0
    context = torch.zeros(len(order), 1)
    if isinstance(head, flow.OneStepFlowSDE):
        with torch.no_grad():
            raw = head.sample(context, WORDS, order).raw
        law, _ = head(context, raw[:, None, 1 : 1 + K], raw[:, :1, None] / head.steps)
        last = law.mean[:, 0]
    else:
        last, _ = head.denoised(context, order)  # through the samples, not through log-probs
    (path,) = torch.autograd.grad(last[:, REWARDED].sum(), means(head))
    assert not path[:, np.arange(K) != REWARDED].any()
    return float(path[:, REWARDED].mean())


def assert_mean(values: Tensor, expected: np.ndarray | float) -> None:
    """The mean over rows is the expected one, within sampling error."""
    error = values.std(0) / math.sqrt(len(values))
    away = (values.mean(0) - torch.as_tensor(expected)).abs() / error
    assert float(away.max()) < SURE, (values.mean(0), expected, error)


def smeared(correlation: float) -> float:
    """``E[sign(x) y]`` of Laplace numbers whose normal scores are correlated.

    It is what the sign of one, the score of a Laplace mean, tells of another.
    """
    if correlation == 1:
        return 1.0  # E|y|

    def at(e: float) -> float:
        sign = math.erf(correlation * e / math.sqrt(2 * (1 - correlation**2)))
        y = stats.laplace.ppf(stats.norm.cdf(e))
        return float(sign * y * stats.norm.pdf(e))

    return 2 * float(integrate.quad(at, 0, 8)[0])


# ----------------------------------------------------------------------------- values and actions


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("name", HEADS)
def test_score_equals_the_logprob_at_acting(name: str, density: str) -> None:
    head, context = make(name, density, 6), torch.zeros(6, 1)
    with torch.no_grad():
        for order in (keys(3, 2), None):
            sample = head.sample(context, WORDS, order)
            again, entropy = head.score(context, WORDS, sample.raw)
            torch.testing.assert_close(again, sample.logprob, atol=1e-5, rtol=0)
            assert entropy.shape == again.shape == (6, K)


@pytest.mark.parametrize("name", HEADS)
def test_densities_share_their_actions(name: str) -> None:
    found = []
    for density in DENSITIES:
        head = make(name, "auto", 6)
        head.use_density(density)
        found.append(head.sample(torch.zeros(6, 1), WORDS, keys(3, 2)))
    marginal, chunk, decision, episode = found
    assert not torch.equal(marginal.actions, decision.actions)  # the only one that acts otherwise
    assert marginal.raw.shape == decision.raw.shape
    assert torch.equal(marginal.actions, chunk.actions)
    assert torch.equal(marginal.actions, episode.actions)
    assert torch.equal(marginal.raw, chunk.raw)
    draws = {"gaussian": 1, "laplace": 1, "sde": 3, "one": 1, "noise": 3}[name]
    assert torch.equal(episode.raw[:, : -draws * A], marginal.raw)
    one, other = episode.raw[:, -draws * A :].view(3, 2, -1).unbind(1)  # decisions of an episode
    if name == "one":  # which remembers the constant of the step that was random
        same = episode.raw[::2, 0] == episode.raw[1::2, 0]
        assert 0 < same.sum() < 3
        assert not torch.equal(one[~same], other[~same])
        one, other = one[same], other[same]
    assert torch.equal(one, other)
    sums = [sample.logprob.detach().sum(1) for sample in found]
    assert min(float((a - b).abs().min()) for a, b in zip(sums, sums[1:], strict=False)) > 1e-3


@pytest.mark.parametrize("name", HEADS)
def test_independent_noise_knows_one_density(name: str) -> None:
    heads = [make(name, density, 6, rho=0.0, episode_share=0.0) for density in DENSITIES]
    first, *others = [head.sample(torch.zeros(6, 1), WORDS, keys(3, 2)) for head in heads]
    for other in others:
        for left, right in zip(first, other, strict=True):
            torch.testing.assert_close(left, right)
    assert all(head.exactness() == Exactness(True, True) for head in heads)


def test_the_joint_density_of_a_gaussian_and_of_its_first_steps() -> None:
    head, context = make("gaussian", "chunk", 5), torch.zeros(5, 1)
    given, fresh = make("gaussian", "episode", 5), make("gaussian", "decision", 5)
    with torch.no_grad():
        anew = fresh.sample(context, WORDS, keys(5))
        sample = head.sample(context, WORDS, keys(5))
        known = given.sample(context, WORDS, keys(5))
    centred = (sample.raw - means(head)).detach().numpy().reshape(5, H, A) / STD
    shift = math.sqrt(SHARE) * known.raw[:, K:].numpy()
    for found, rest, covariance in (
        (sample, centred, COVARIANCE),
        (known, centred - shift[:, None], COVARIANCE - SHARE),
        (anew, (anew.raw - means(fresh)).detach().numpy().reshape(5, H, A) / STD, ANEW),
    ):
        logprob = found.logprob.detach().view(5, H, A)
        for steps in range(1, H + 1):
            law = stats.multivariate_normal(cov=STD**2 * covariance[:steps, :steps])
            expected = sum(law.logpdf(STD * rest[:, :steps, a]) for a in range(A))
            np.testing.assert_allclose(logprob[:, :steps].sum((1, 2)), expected, atol=1e-4)


def test_the_joint_density_of_a_laplace_is_that_of_a_gaussian_copula() -> None:
    for density in ("chunk", "decision", "episode"):
        head, context = make("laplace", density, 5), torch.zeros(5, 1)
        assert isinstance(head, LaplaceHead)
        with torch.no_grad():
            law, sample = head(context), head.sample(context, WORDS, keys(5))
        scale = law.log_scale.exp().numpy()
        u = (sample.raw[:, :K] - law.mean).detach().numpy().astype(np.float64) / scale
        e = stats.norm.ppf(stats.laplace.cdf(u)).reshape(5, H, A)
        alone = stats.laplace.logpdf(u) - np.log(scale) - stats.norm.logpdf(e).reshape(5, K)
        shift, covariance = np.zeros((5, 1, A)), COVARIANCE
        if density == "episode":
            shift = math.sqrt(SHARE) * sample.raw[:, None, K:].numpy()
            covariance = COVARIANCE - SHARE
        elif density == "decision":
            covariance = ANEW
        joint = stats.multivariate_normal(cov=covariance)
        expected = alone.sum(1) + sum(joint.logpdf((e - shift)[..., a]) for a in range(A))
        np.testing.assert_allclose(sample.logprob.sum(1).detach(), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["sde", "noise"])
def test_the_joint_density_of_a_chain_is_that_of_its_steps(name: str) -> None:
    head, context = make(name, "chunk", 5), torch.zeros(5, 1)
    assert isinstance(head, flow.FlowHead)
    with torch.no_grad():
        sample = head.sample(context, WORDS, keys(5))
        chain = sample.raw.view(5, 3, K)
        tau = torch.tensor([0.0, 0.5]).view(1, 2, 1)
        (mean, log_std), _ = head(context, chain[:, :-1], tau)
        width = log_std.exp().expand_as(mean)
        joint = stats.multivariate_normal(cov=COVARIANCE)
        e = torch.cat([chain[:, :1], (chain[:, 1:] - mean) / width], dim=1).view(5, 3, H, A)
    expected = sum(joint.logpdf(e[:, step, :, a]) for step in range(3) for a in range(A))
    expected = expected - width.log().sum((1, 2)).numpy()
    np.testing.assert_allclose(sample.logprob.sum(1).detach(), expected, atol=1e-4)


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("name", HEADS)
def test_entropy_is_the_expected_surprise(name: str, density: str) -> None:
    """Also of a marginal density: its units by themselves are what is sampled."""
    rows = 4_000
    head, context = make(name, density, rows), torch.zeros(rows, 1)
    with torch.no_grad():
        sample = head.sample(context, WORDS, keys(rows))
        entropy = head.score(context, WORDS, sample.raw)[1]
    assert_mean(-sample.logprob - entropy, 0.0)


# ------------------------------------------------------------------------------------- gradients


def expected_gradient(name: str, density: str) -> np.ndarray:
    """By unit ``[K]``, if the reward's own derivative is 1."""
    expected = np.zeros(K)
    expected[REWARDED] = 1.0
    if density == "marginal":
        step = REWARDED // A
        row = COVARIANCE[step]
        expected[MINE] = [smeared(r) for r in row] if name == "laplace" else row
    return expected


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("name", HEADS)
def test_the_policy_gradient_is_the_known_one(name: str, density: str) -> None:
    """Exact densities credit the rewarded unit alone, the marginal one what its noise was like."""
    order = keys(8_000)
    head = make(name, density, len(order))
    played = play(head, order)
    reward = played.last[:, REWARDED]
    gradient = played.score * (reward - reward.mean())[:, None]
    assert_mean(gradient, truth(head, order) * expected_gradient(name, density))
    error = gradient.std(0) / math.sqrt(len(order))
    assert float(error.max()) < 0.05  # or the test would say little


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("name", HEADS)
def test_the_score_has_mean_zero_whatever_was_done_before(name: str, density: str) -> None:
    """Only given the episode's constant, or without one; else an earlier action tells of the later
    noise."""
    order = keys(6_000, 2)
    head = make(name, density, len(order))
    played = play(head, order)
    before = played.last[::2, REWARDED]
    gradient = played.score[1::2] * (before - before.mean())[:, None]
    assert_mean(played.score[1::2], 0.0)
    if density in ("decision", "episode"):
        assert_mean(gradient, 0.0)
        return
    found = gradient[:, MINE].sum(1)
    assert float(found.mean()) > SURE * float(found.std()) / math.sqrt(len(found))
    if name in ("laplace", "one"):
        if density == "marginal" and name == "laplace":
            assert_mean(gradient[:, MINE], smeared(SHARE))
        return
    told = np.full(H, SHARE)
    if density == "chunk":
        told = np.linalg.solve(COVARIANCE, told)
    assert_mean(gradient[:, MINE], truth(head, order) * told)


# ---------------------------------------------------------------------------------------- ratios


def log_ratio(head: CorrelatedHead, order: np.ndarray, shift: float, wider: float = 0.0) -> Tensor:
    """``[B, K]`` after the means moved by ``shift`` and a deviation that is learned by a factor."""
    context = torch.zeros(len(order), 1)
    with torch.no_grad():
        sample = head.sample(context, WORDS, order)
        means(head).add_(shift)
        if isinstance(head, GaussianHead):
            head.log_std.add_(wider)
        elif isinstance(head, LaplaceHead):
            head.log_scale[-1].bias.add_(wider)  # type: ignore[operator]
        elif isinstance(head, flow.FlowNoise):
            head.spread[-1].bias.add_(wider)  # type: ignore[operator]
        after, _ = head.score(context, WORDS, sample.raw)
        return after - sample.logprob


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("name", HEADS)
def test_expected_ratios_are_1_at_every_level_that_the_density_allows(
    name: str, density: str
) -> None:
    decisions = 3
    order = keys(3_000, decisions)
    head = make(name, density, len(order))
    exact = head.exactness()
    assert exact == Exactness(density != "marginal", density in ("decision", "episode"))
    size = 0.1 if isinstance(head, flow.FlowHead) else 0.15
    logs = log_ratio(head, order, size * STD, wider=0.03)
    logs = logs.view(-1, decisions, H, A)
    # Means over the decisions of an episode, as those are not independent of each other.
    assert_mean(logs.exp().mean(1), 1.0)  # tokens
    assert_mean(logs.sum(3).exp().mean(1), 1.0)  # actions
    if exact.within_chunk:
        assert_mean(logs.sum((2, 3)).exp().mean(1), 1.0)
    if exact.between_decisions:
        assert_mean(logs.sum((1, 2, 3)).exp(), 1.0)


def test_a_marginal_density_has_no_ratio_of_chunks() -> None:
    """Chunks of 4 whose mean moves by .3 deviations: the expected ratio is 1.298, not 1."""
    order = keys(20_000)
    head = make("gaussian", "marginal", len(order))
    chunk = log_ratio(head, order, 0.3 * STD).view(-1, H, A)[..., 0].sum(1)
    expected = math.exp(0.5 * 0.3**2 * (COVARIANCE.sum() - H))
    assert expected == pytest.approx(1.298, abs=1e-3)
    assert_mean(chunk.exp(), expected)
    assert float(chunk.exp().mean()) > 1.25


def test_a_chunk_density_has_no_ratio_of_episodes() -> None:
    """As what stays over the episode is averaged over anew in every decision."""
    decisions = 3
    order = keys(8_000, decisions)
    head = make("gaussian", "chunk", len(order))
    logs = log_ratio(head, order, 0.3 * STD).view(-1, decisions, H, A)[..., 0].sum((1, 2))
    weight = np.linalg.inv(COVARIANCE).sum()
    pairs = decisions * (decisions - 1)
    expected = math.exp(0.5 * 0.3**2 * pairs * SHARE * weight**2)
    assert_mean(logs.exp(), expected)
    assert expected > 1.1


# ---------------------------------------------------------------------------------- what it claims


@pytest.mark.parametrize(
    ("settings", "claims"),
    [
        ({}, ((False, False), (True, False), (True, True), (True, True))),
        ({"episode_share": 0.0}, ((False, True), (True, True), (True, True), (True, True))),
        ({"rho": 0.0}, ((False, False), (True, False), (True, True), (True, True))),
        (
            {"rho": 0.0, "episode_share": 0.0},
            ((True, True), (True, True), (True, True), (True, True)),
        ),
        ({"chunk": 1}, ((True, False), (True, False), (True, True), (True, True))),
        (
            {"chunk": 1, "episode_share": 0.0},
            ((True, True), (True, True), (True, True), (True, True)),
        ),
    ],
)
def test_a_head_says_what_is_exact(
    settings: dict[str, Any], claims: tuple[tuple[bool, bool], ...]
) -> None:
    head = make("gaussian", "auto", 1, **settings)
    assert tuple(head.exactness(density) for density in DENSITIES) == claims
    head.use_density("chunk")
    assert head.exactness() == claims[1]


def test_a_density_is_chosen_once_or_never() -> None:
    head = make("gaussian", "auto", 1)
    assert head.density == "marginal"
    for density in DENSITIES:
        head.use_density(density)
        assert head.density == density
    fixed = make("gaussian", "chunk", 1)
    fixed.use_density("chunk")
    with pytest.raises(ValueError, match="'episode' was asked of .* fix density 'chunk'.*'auto'"):
        fixed.use_density("episode")
    bad: list[Callable[[str], object]] = [head.use_density, head.exactness]
    for ask in bad:
        with pytest.raises(
            ValueError, match="unknown density 'joint'.*marginal, chunk, decision, episode"
        ):
            ask("joint")


def test_decisions_of_another_density_are_refused() -> None:
    head = make("gaussian", "auto", 1)
    raw = head.sample(torch.zeros(1, 1), WORDS, keys(1)).raw
    head.use_density("episode")
    with pytest.raises(ValueError, match="hold 8 numbers, density 'episode' needs 10"):
        head.score(torch.zeros(1, 1), WORDS, raw)
