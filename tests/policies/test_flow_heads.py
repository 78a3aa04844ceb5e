"""The flow heads: what they record, that chains are scored in one pass, and that they can learn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers import WORLD, fit, head_config, make_policy
from vla_rl import sft
from vla_rl.demos.chunks import ChunkDataset
from vla_rl.envs import point_reach
from vla_rl.functional import density, flow
from vla_rl.policies import _heads
from vla_rl.policies._heads import exploration_noise
from vla_rl.policies._heads import flow as flow_heads
from vla_rl.policies._heads.config import FlowNoiseConfig, Size
from vla_rl.rollout.slots import SlotPool

CONTEXT, CHUNK, A = 6, 3, 2
K = CHUNK * A
SIZE = Size(CHUNK, A, CONTEXT, hidden=(16,))
WORDS = torch.zeros(0)
"""The heads read the instruction through the context only."""

KINDS: dict[str, dict[str, Any]] = {
    "sde": {"head": "flow_sde"},
    "one": {"head": "flow_sde", "stochastic": "one"},
    "noise": {"head": "flow_noise"},
}


def make(kind: str, **settings: Any) -> flow_heads.FlowHead:
    """A head whose networks say something."""
    torch.manual_seed(0)
    size = SIZE._replace(horizon=settings.pop("chunk", CHUNK))
    head = _heads.make(head_config(**KINDS[kind], **settings), size)
    assert isinstance(head, flow_heads.FlowHead)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return head


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, CONTEXT, generator=torch.Generator().manual_seed(1))


def keys(count: int) -> np.ndarray:
    return np.stack([np.arange(count) + 50, np.arange(count) % 3], axis=1)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


# -------------------------------------------------------------------------------- what is recorded


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_what_is_recorded(kind: str, steps: int) -> None:
    head = make(kind, denoising_steps=steps)
    with torch.inference_mode():
        sample = head.sample(rows(5), WORDS, keys(5))
    assert sample.raw.shape == (5, 1 + 2 * K if kind == "one" else (steps + 1) * K)
    assert sample.logprob.shape == (5, K)
    assert sample.actions.shape == (5, CHUNK, A)
    if kind != "one":
        assert torch.equal(sample.raw[:, -K:].clamp(-1, 1), sample.actions.flatten(1))
        start = exploration_noise.draw(keys(5), steps + 1, CHUNK, A, 0.5, 0.2).whole[:, 0]
        np.testing.assert_array_equal(sample.raw[:, :K], start)


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_score_repeats_acting(kind: str, steps: int) -> None:
    head = make(kind, denoising_steps=steps)
    context = rows(7)
    with torch.inference_mode():
        for given in (keys(7), None):
            sample = head.sample(context, WORDS, given)
            order = torch.tensor([3, 0, 6])
            again, entropy = head.score(context[order], WORDS, sample.raw[order])
            torch.testing.assert_close(again, sample.logprob[order], atol=1e-5, rtol=0)
            assert entropy.shape == again.shape


def test_scoring_is_one_pass_of_the_network(kind: str) -> None:
    head, passes = make(kind), []
    with torch.inference_mode():
        raw = head.sample(rows(5), WORDS, keys(5)).raw
    head.denoiser.register_forward_hook(lambda _, given, made: passes.append(given[0].shape[:2]))
    head.score(rows(5), WORDS, raw)
    assert passes == [(5, 1 if kind == "one" else 4)]


def test_a_chain_is_scored_step_by_step() -> None:
    """The batched score against a loop over the steps, with each law as acting meets it."""
    for kind in ("sde", "noise"):
        head = make(kind)
        context = rows(5)
        with torch.inference_mode():
            sample = head.sample(context, WORDS, keys(5))
            chain = sample.raw.view(5, 5, K)
            total = density.normal_logprob(chain[:, 0], torch.zeros(K), torch.zeros(K))
            entropy = torch.full((5, K), 0.5 * math.log(2 * math.pi * math.e))
            for k in range(4):
                tau = torch.full((1, 1, 1), k / 4)
                (mean, log_std), _ = head(context, chain[:, k : k + 1], tau)
                law = torch.distributions.Normal(mean[:, 0], log_std[:, 0].exp().expand(5, K))
                total = total + law.log_prob(chain[:, k + 1])  # type: ignore[no-untyped-call]
                entropy = entropy + law.entropy()  # type: ignore[no-untyped-call]
        torch.testing.assert_close(sample.logprob, total, atol=1e-5, rtol=0)
        found = head.score(context, WORDS, sample.raw)[1].detach()
        torch.testing.assert_close(found, entropy, atol=1e-5, rtol=0)


def test_one_random_step_is_recorded_and_the_others_follow_the_ode() -> None:
    head = make("one")
    context = rows(40)
    with torch.inference_mode():
        sample = head.sample(context, WORDS, keys(40))
        chosen = sample.raw[:, 0].long()
        np.testing.assert_array_equal(chosen, exploration_noise.pick(keys(40), 4))
        assert set(chosen.tolist()) == {0, 1, 2, 3}
        last = sample.raw[:, 1 + K :].clone()
        for row in range(40):
            for k in range(int(chosen[row]) + 1, 4):
                here = last[row].view(1, 1, K)
                _, following = head(context[row : row + 1], here, torch.full((1, 1, 1), k / 4))
                last[row] = following
    torch.testing.assert_close(last.clamp(-1, 1), sample.actions.flatten(1), atol=1e-5, rtol=1e-5)


# -------------------------------------------------------------------------------------- its noise


def test_greedy_acting_follows_the_ode_from_zero(kind: str) -> None:
    head = make(kind)
    context = rows(3)
    with torch.inference_mode():
        found = head.sample(context, WORDS, None)
        sample = torch.zeros(3, K)
        for k in range(4):
            tau = torch.full((1, 1, 1), k / 4)
            time = flow_heads.time_features(tau[0, 0]).expand(3, -1)
            inputs = torch.cat([context, sample, time], 1)
            sample = sample + (head.denoiser(inputs) - sample) / (1 - k / 4) / 4
    torch.testing.assert_close(found.actions.flatten(1), sample.clamp(-1, 1), atol=1e-5, rtol=0)
    assert float(found.raw[:, -1].abs().max()) > 0


def test_learned_noise_stays_in_its_range_and_reads_a_detached_context() -> None:
    head = make("noise", noise_std=(0.1, 0.4))
    assert isinstance(head, flow_heads.FlowNoise)
    context = rows(50).requires_grad_()
    (_, log_std), _ = head(context, torch.randn(50, 4, K), flow.grid(4)[:-1].view(1, 4, 1))
    std = log_std.exp().detach()
    assert 0.1 <= float(std.min()) < float(std.max()) <= 0.4
    log_std.sum().backward()
    assert context.grad is None
    assert any(p.grad is not None and p.grad.any() for p in head.spread.parameters())


def test_learned_noise_starts_in_the_middle_and_is_left_alone_by_imitation() -> None:
    head = flow_heads.FlowNoise(FlowNoiseConfig(), SIZE)
    (_, log_std), _ = head(rows(50), torch.randn(50, 1, K), torch.zeros(1, 1, 1))
    middle = math.sqrt(0.04 * 0.08)
    np.testing.assert_allclose(log_std.exp().detach(), middle, rtol=0.03)
    actions, mask = torch.zeros(4, CHUNK, A), torch.ones(4, CHUNK, dtype=torch.bool)
    loss = head.imitation_loss(rows(4), WORDS, actions, mask)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in head.spread.parameters())
    assert all(p.grad is not None for p in head.denoiser.parameters())


def test_noise_of_a_given_size_has_a_constant_entropy() -> None:
    head = make("sde", noise_level=0.5)
    _, entropy = head.score(rows(2), WORDS, torch.randn(2, 5 * K))
    # .5 sqrt((1 - tau) / tau) / 2 for 4 steps, the first one .5
    std = torch.tensor([0.5, 0.433013, 0.25, 0.144338])
    expected = 5 * 0.5 * math.log(2 * math.pi * math.e) + float(std.log().sum())
    np.testing.assert_allclose(entropy.detach(), expected, rtol=1e-5)
    assert not entropy.requires_grad


# -------------------------------------------------------------------------------------- imitation


def test_imitation_draws_from_the_generator_that_is_given() -> None:
    head = make("sde")
    given = (rows(4), WORDS, torch.randn(4, CHUNK, A), torch.ones(4, CHUNK, dtype=torch.bool))
    before = torch.get_rng_state()
    found = []
    for seed in (3, 4, 3):
        generator = torch.Generator().manual_seed(seed)
        found += [float(head.imitation_loss(*given, generator).detach()) for _ in range(2)]
    assert torch.equal(before, torch.get_rng_state())
    assert found[:2] == found[4:]
    assert len(set(found)) == 4


def test_imitation_repeats_itself_from_the_same_generator_state() -> None:
    head = make("sde")
    given = (rows(4), WORDS, torch.randn(4, CHUNK, A), torch.ones(4, CHUNK, dtype=torch.bool))
    torch.manual_seed(3)
    first, second = (float(head.imitation_loss(*given).detach()) for _ in range(2))
    torch.manual_seed(3)
    assert float(head.imitation_loss(*given).detach()) == first != second


def test_cloning_and_the_anchor_do_not_depend_on_where_the_generator_stood() -> None:
    """A new process starts its generator anywhere, and a resumed run is a new process."""
    pool = SlotPool("point_reach", point_reach.Settings())
    demos = [pool.record(spec) for spec in WORLD.resolve().specs("demo", 2)]
    found = []
    for stood in (1, 2):
        policy = make_policy(head="flow_sde")
        data = ChunkDataset(demos, policy.chunk)
        torch.manual_seed(stood)
        losses = fit(policy, data, sft.SFTConfig(steps=3))
        anchor = sft.DemoAnchor(policy, data, sft.AnchorConfig(coef=1.0), seed=0)
        torch.manual_seed(stood)
        losses += [float(loss.detach()) for step in (4, 5, 4) for loss in anchor(step)]
        found.append(losses)
    assert found[0] == found[1]
    assert found[0][-1] == found[0][-3] != found[0][-2]


def test_masked_steps_do_not_matter_to_imitation() -> None:
    head = make("sde")
    mask = torch.tensor([[True, True, False]]).expand(4, 3)
    actions = torch.randn(4, CHUNK, A)
    other = actions.clone()
    other[:, 2] = 1e6
    losses = []
    for target in (actions, other):
        torch.manual_seed(3)
        losses.append(float(head.imitation_loss(rows(4), WORDS, target, mask).detach()))
    assert losses[0] == losses[1]


def test_imitation_starts_from_the_noise_that_acting_starts_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its covariance over a chunk is that of the exploration noise; the chain's theory needs it."""
    head = make("sde", rho=0.8, episode_share=0.3)
    met: list[torch.Tensor] = []
    loss = flow.matching_loss

    def watch(velocity, actions, noise, mask):  # type: ignore[no-untyped-def]
        met.append(noise)
        return loss(velocity, actions, noise, mask)

    monkeypatch.setattr(flow, "matching_loss", watch)
    count = 10_000
    head.imitation_loss(
        rows(count), WORDS, torch.zeros(count, CHUNK, A), torch.ones(count, CHUNK).bool()
    )
    noise = met[0].reshape(-1, CHUNK, A).numpy()
    acting = exploration_noise.draw(keys(count), 1, CHUNK, A, 0.8, 0.3).whole.reshape(-1, CHUNK, A)
    expected = exploration_noise.covariance(CHUNK, 0.8, 0.3)
    for found in (noise, acting):
        np.testing.assert_allclose(np.cov(found[..., 0].T), expected, atol=0.05)
        assert abs(np.mean(found[:, 0, 0] * found[:, 0, 1])) < 0.05


@pytest.fixture(scope="module")
def torn() -> dict[str, torch.Tensor]:
    """A network cloned from demonstrations of which half go left and half go right."""
    torch.manual_seed(0)
    head = undecided("sde")
    actions = torch.where(torch.arange(256) % 2 == 0, 0.7, -0.7).view(256, 1, 1)
    context, mask = torch.zeros(256, 1), torch.ones(256, 1, dtype=torch.bool)
    optimizer = torch.optim.Adam(head.parameters(), lr=5e-3)
    for _ in range(1500):
        optimizer.zero_grad()
        head.imitation_loss(context, WORDS, actions, mask).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return dict(head.denoiser.state_dict())


def undecided(kind: str) -> flow_heads.FlowHead:
    config = head_config(denoising_steps=10, **KINDS[kind])
    head = _heads.make(config, Size(1, 1, context_dim=1, hidden=(32, 32)))
    assert isinstance(head, flow_heads.FlowHead)
    return head


def test_a_flow_learns_two_answers_where_a_mean_would_learn_none(
    kind: str, torn: dict[str, torch.Tensor]
) -> None:
    head = undecided(kind)
    head.denoiser.load_state_dict(torn)
    many = np.stack([np.arange(1_000), np.zeros(1_000, np.int64)], axis=1)
    with torch.inference_mode():
        found = head.sample(torch.zeros(1_000, 1), WORDS, many).actions.flatten()
    assert 0.4 < float((found > 0).float().mean()) < 0.6
    assert float(found.abs().mean()) == pytest.approx(0.7, abs=0.1)
    assert float((found.abs() > 0.4).float().mean()) > 0.85


def test_a_policy_gradient_moves_the_chain_towards_what_paid(kind: str) -> None:
    """REINFORCE on 'the larger the better' with nothing but the log-probs of chains."""
    head = make(kind, chunk=1)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    context = torch.zeros(256, CONTEXT)

    def greedy() -> float:
        with torch.inference_mode():
            return float(head.sample(context[:1], WORDS, None).actions.mean())

    before = greedy()
    for iteration in range(15):
        order = np.stack([np.arange(256) + 1_000 * iteration, np.zeros(256, np.int64)], axis=1)
        with torch.inference_mode():
            sample = head.sample(context, WORDS, order)
        reward = sample.actions[:, 0]
        logprob, _ = head.score(context, WORDS, sample.raw.clone())
        optimizer.zero_grad()
        (-(reward - reward.mean(0)) * logprob).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert greedy() > before + 0.1
