"""pi0: that it is the model of transformers, turned around in time, and that RL can train it.

What every policy must keep is tried in ``test_policies.py``, on the same tiny model.
"""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from tests.helpers import WORLD, composed, fit, fresh, packed
from tests.policies import tiny_pi0
from vla_rl import plugins
from vla_rl.demos.chunks import ChunkDataset
from vla_rl.envs import point_reach
from vla_rl.functional import flow
from vla_rl.learning.learner import Learner, LearnerConfig
from vla_rl.policies import pi0
from vla_rl.policies._pi0 import inputs as pi0_inputs
from vla_rl.policy import load_policy
from vla_rl.rollout.slots import SlotPool
from vla_rl.sft import SFTConfig
from vla_rl.types import Observation, Spaces

SPACES = Spaces(views=("front", "wrist"), image_size=12, state_dim=3, action_dim=2)
SENTENCES = ["open the drawer", "shut it", "open the drawer"]
CHUNK, ROWS = 3, 3
C, M = tiny_pi0.CHUNK, tiny_pi0.ACTION


def make(spaces: Spaces = SPACES, **settings: Any) -> pi0.Policy:
    torch.manual_seed(0)
    given = {"model": tiny_pi0.folder(), "chunk": CHUNK, "precision": "float32", **settings}
    policy = pi0.Policy(composed(pi0.Config, **given), spaces)
    policy.remember(SENTENCES)
    return policy


def observe() -> Observation:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (ROWS, 2, 12, 12, 3), dtype=np.uint8)
    return Observation(images, generator.normal(size=(ROWS, 3)).astype(np.float32))


def keys(rows: int = ROWS) -> np.ndarray:
    return np.stack([np.arange(rows) + 10**12, np.arange(rows) % 3], axis=1)


def context(policy: pi0.Policy, obs: Observation) -> Tensor:
    """What the head of the policy reads."""
    words, state = policy._words(SENTENCES), policy._proprioception(obs)
    return policy.context(policy.encode_images(torch.tensor(obs.images), words), words, state)[0]


def theirs(obs: Observation) -> tuple[Any, dict[str, Tensor]]:
    """The model as transformers loads it, and its inputs as its own processor makes them."""
    processor = transformers.PI0Processor.from_pretrained(tiny_pi0.folder())
    inputs = processor(images=[list(row) for row in obs.images], text=SENTENCES)
    state = torch.nn.functional.pad(torch.tensor(obs.state), (0, tiny_pi0.STATE - 3))
    model = transformers.PI0ForConditionalGeneration.from_pretrained(tiny_pi0.folder())
    return model.eval(), {**inputs, "state": state}


# ------------------------------------------------------------------ the same model as transformers


@pytest.mark.parametrize("head", ["flow_sde", "flow_noise"])
@pytest.mark.parametrize("steps", [1, 4])
def test_the_ode_gives_the_actions_of_transformers(head: str, steps: int) -> None:
    policy, obs = make(head=head, denoising_steps=steps), observe()
    model, inputs = theirs(obs)
    noise = torch.randn(ROWS, C, M, generator=torch.Generator().manual_seed(1))
    expected = model.sample_actions(**inputs, noise=noise.clone(), num_steps=steps)
    draws = torch.zeros(ROWS, steps + 1, C * M)
    draws[:, 0] = noise.flatten(1)
    with torch.inference_mode():
        still = torch.zeros(ROWS, steps, dtype=torch.bool)
        chain = policy.head.whole._denoise(context(policy, obs), draws, still)
    torch.testing.assert_close(chain[:, -1].view(ROWS, C, M), expected, atol=1e-4, rtol=1e-4)
    assert (expected - noise).abs().min() > 1e-4


def test_greedy_actions_are_those_of_transformers_from_the_mean_of_the_noise() -> None:
    # All parts are trained, so nothing is kept, for which it would be rounded to half precision.
    policy, obs = make(vlm_trains=("language", "connector", "vision")), observe()
    model, inputs = theirs(obs)
    expected = model.sample_actions(**inputs, noise=torch.zeros(ROWS, C, M), num_steps=4)
    found = policy.act(obs, SENTENCES, None)
    np.testing.assert_allclose(found.actions, expected[:, :CHUNK, :2].clamp(-1, 1), atol=1e-4)
    assert found.actions.min() >= -1
    assert found.actions.max() <= 1


def test_imitation_is_the_loss_of_transformers_where_it_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy, obs = make(vlm_trains=("language", "connector", "vision")), observe()
    model, inputs = theirs(obs)
    model.config.loss_reduction = "none"
    generator = torch.Generator().manual_seed(1)
    actions = torch.rand(ROWS, CHUNK, 2, generator=generator) * 2 - 1
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]]).bool()
    met: dict[str, Tensor] = {}

    def watch(velocity: Tensor, known: Tensor, noise: Tensor, counted: Tensor) -> Tensor:
        met["noise"] = noise
        return flow_loss(velocity, known, noise, counted)

    def remember(rows: int, generator: torch.Generator | None) -> Tensor:
        met["tau"] = times(rows, generator)
        return met["tau"]

    flow_loss, times = flow.matching_loss, policy.head.whole.times
    monkeypatch.setattr(flow, "matching_loss", watch)
    monkeypatch.setattr(policy.head.whole, "times", remember)
    found = policy.imitation_loss(obs, SENTENCES, actions.numpy(), mask.numpy())
    padded = torch.zeros(ROWS, C, M)
    padded[:, :CHUNK, :2] = actions * mask[..., None]
    draws = met["tau"].shape[1]
    total = torch.zeros(())
    with torch.inference_mode():
        for draw in range(draws):
            noise, tau = met["noise"][:, draw].view(ROWS, C, M), met["tau"][:, draw, 0]
            loss = model(**inputs, actions=padded, noise=noise, timestep=1 - tau).loss
            total = total + loss[:, :CHUNK, :2][mask].sum()
    assert float(found.detach()) == pytest.approx(float(total) / (draws * 6 * 2), rel=1e-4)


# -------------------------------------------------------------------------------- what is computed


@pytest.mark.parametrize("settings", [{}, {"stochastic": "one"}, {"head": "flow_noise"}])
def test_the_prefix_runs_once_and_all_steps_are_scored_in_one_pass(
    settings: dict[str, Any],
) -> None:
    policy, obs = make(**settings), observe()
    policy.freeze({"vlm"})
    ran: list[str] = []
    tower, language = policy.prefix.net.vision_tower, policy.prefix.net.language_model
    for name, module in (
        ("eyes", tower),
        ("words", language),
        ("expert", policy.head.whole.expert),
    ):
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    chunk = policy.act(obs, SENTENCES, keys())
    assert ran == ["eyes", "words", *["expert"] * 5]  # four steps, then their log-probabilities
    ran.clear()
    policy.evaluate(replace(obs, images=obs.images[:, :0]), SENTENCES, chunk.raw, chunk.features)
    assert ran == ["words", "expert"]


def test_the_batched_pass_says_what_single_passes_say() -> None:
    policy, obs = make(), observe()
    expert, read = policy.head.whole.expert, context(policy, obs)
    samples = torch.randn(ROWS, 4, C * M, generator=torch.Generator().manual_seed(1))
    tau = flow.grid(4)[:-1].view(1, 4, 1)
    with torch.inference_mode():
        velocity, states = expert(read, samples, tau)
        assert states.shape == (ROWS, 4, C, tiny_pi0.EXPERT)
        for row in range(ROWS):
            for step in range(4):
                alone, _ = expert(
                    read[row : row + 1], samples[row, step].view(1, 1, -1), tau[:, step : step + 1]
                )
                torch.testing.assert_close(alone[0, 0], velocity[row, step], atol=1e-4, rtol=1e-4)


def test_chains_hold_whole_chunks_of_which_the_executed_part_is_scored() -> None:
    policy, obs = make(), observe()
    chunk = policy.act(obs, SENTENCES, keys())
    assert chunk.raw.shape == (ROWS, 5 * C * M)
    assert chunk.logprob.shape == (ROWS, policy.units) == (ROWS, CHUNK * 2)
    chain = chunk.raw.reshape(ROWS, 5, C, M)
    assert chain[:, 0].std(axis=0).min() > 0  # all numbers start at random
    np.testing.assert_array_equal(chain[:, -1, :CHUNK, :2].clip(-1, 1), chunk.actions)

    def moved(step: int, dim: int) -> np.ndarray:
        other = chain.copy()
        other[:, -1, step, dim] += 0.1
        scores = policy.evaluate(obs, SENTENCES, other.reshape(ROWS, -1), chunk.features)
        found: np.ndarray = np.abs(scores.logprob.detach().numpy() - chunk.logprob).max(0) > 1e-3
        return found

    assert not moved(CHUNK, 0).any()
    assert not moved(0, 2).any()
    assert moved(1, 1).tolist() == [False, False, False, True, False, False]


def test_only_the_images_pass_through_what_is_kept() -> None:
    policy, obs = make(), observe()
    chunk = policy.act(obs, SENTENCES, keys())
    tokens = (tiny_pi0.IMAGE // tiny_pi0.PATCH) ** 2
    assert chunk.features.shape == (ROWS, 2 * tokens * tiny_pi0.WIDTH)
    trains_all = make(vlm_trains=("language", "connector", "vision"))
    assert trains_all.act(obs, SENTENCES, keys()).features.shape == (ROWS, 0)


def test_the_critic_reads_each_view_and_the_instruction() -> None:
    policy, obs = make(), observe()
    last = policy.critic[-1]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.normal_(last.weight)
    value = policy.act(obs, SENTENCES, None).value
    for view in (0, 1):
        images = obs.images.copy()
        images[:, view] = 0
        other = policy.act(replace(obs, images=images), SENTENCES, None).value
        assert np.abs(other - value).min() > 1e-4
    policy.remember(["fly"])
    assert np.abs(policy.act(obs, ["fly"] * ROWS, None).value - value).min() > 1e-4


# --------------------------------------------------------------------------------------- training


def flyer(**settings: Any) -> pi0.Policy:
    policy = make(point_reach.spaces(point_reach.Settings()), **settings)
    policy.remember([task.instruction for task in point_reach.tasks()])
    return policy


def test_times_follow_the_law_of_pretraining() -> None:
    tau = make().head.whole.times(5000, torch.Generator().manual_seed(0))
    assert 0 <= float(tau.min()) <= float(tau.max()) <= 0.999
    # t = .999 b + .001 with b from Beta(1.5, 1), whose mean is .6
    assert float(tau.mean()) == pytest.approx(1 - 0.001 - 0.999 * 0.6, abs=0.01)


@pytest.mark.parametrize("head", ["flow_sde", "flow_noise"])
@pytest.mark.parametrize(
    ("name", "settings"), [("ppo", {"critic_warmup": 0}), ("grpo", {}), ("loop", {})]
)
def test_an_update_moves_the_expert_and_leaves_paligemma_alone(
    name: str, settings: dict[str, Any], head: str
) -> None:
    policy = flyer(head=head, chunk=C)
    algorithm = plugins.load("algorithms", name).Algorithm(ppo_epochs=1, **settings)
    learner = Learner(policy, LearnerConfig(), algorithm.trains)
    if algorithm.uses_reference:
        learner.reference = copy.deepcopy(policy).requires_grad_(False)
    before = {k: v.clone() for k, v in policy.state_dict().items()}
    log = algorithm.update(
        learner, packed(policy, size=2), fresh(algorithm), np.random.default_rng(0)
    )
    assert all(np.isfinite(value) for value in log.values())
    assert abs(log["actor/ppo_kl"]) < 0.1
    moved = {k for k, v in policy.state_dict().items() if not torch.equal(v, before[k])}
    parts = {"head", "critic"} if algorithm.uses_critic else {"head"}
    assert {key.partition(".")[0] for key in moved} == parts
    for part in ("dit", "action_in_proj", "state_proj", "action_time_mlp", "action_out_proj"):
        assert any(part in key for key in moved), part
    assert any("spread" in key for key in moved) == (head == "flow_noise")


@pytest.mark.parametrize(
    "settings",
    [
        {"noise_level": 0.5},
        {"noise_level": 0.5, "stochastic": "one"},
        {"head": "flow_noise", "noise_std": (0.08, 0.16)},
    ],
)
def test_actions_move_towards_the_reward(settings: dict[str, Any]) -> None:
    """A policy gradient in a world of one decision, paid for being near a given chunk."""
    policy, rows = make(**settings), 64
    policy.freeze({"vlm", "critic"})
    obs, words = observe()[[0] * rows], [SENTENCES[0]] * rows
    optimizer = torch.optim.Adam(policy.groups()["head"], lr=3e-3)
    rewards = []
    for update in range(18):
        chunk = policy.act(obs, words, keys(rows) + [1000 * update, 0])
        reward = -np.square(chunk.actions - np.array([0.4, -0.3])).mean((1, 2))
        rewards.append(reward.mean())
        advantage = torch.tensor((reward - reward.mean()) / reward.std())
        scores = policy.evaluate(obs, words, chunk.raw, chunk.features)
        loss = -(advantage[:, None] * scores.logprob).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(policy.groups()["head"], 0.5)
        optimizer.step()
    assert np.mean(rewards[-3:]) > 0.6 * np.mean(rewards[:3])  # they are negative


def test_adapters_learn_from_rewards_and_the_weights_beneath_them_stay() -> None:
    policy = make(lora_rank=2, lora_targets=("q_proj", "v_proj"))
    obs, before = observe(), {k: v.clone() for k, v in policy.state_dict().items()}
    chunk = policy.act(obs, SENTENCES, keys())
    groups = policy.groups()
    assert len(groups["vlm"]) == tiny_pi0.LAYERS * 4
    optimizer = torch.optim.AdamW([p for group in groups.values() for p in group], lr=1e-2)
    for _ in range(2):  # adapters begin at zero, so one of their two factors waits for the other
        optimizer.zero_grad()
        scores = policy.evaluate(obs, SENTENCES, chunk.raw, chunk.features)
        scores.logprob.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    moved = {k for k, v in policy.state_dict().items() if not torch.equal(v, before[k])}
    assert {k for k in moved if k.startswith("prefix")} == {
        k for k in before if k.startswith("prefix") and "lora_" in k
    } - {k for k in before if f"layers.{tiny_pi0.LAYERS - 1}.self_attn.q_proj" in k}


@pytest.mark.parametrize("rank", [0, 2])
def test_what_is_trained_is_float32_and_log_probabilities_too(rank: int) -> None:
    policy = make(precision="bfloat16", lora_rank=rank, vlm_trains=("language", "connector"))
    trained = [p for group in policy.groups().values() for p in group]
    assert {p.dtype for p in trained} == {torch.float32}
    weight = policy.prefix.net.language_model.layers[0].mlp.up_proj.weight
    assert weight.dtype == (torch.bfloat16 if rank else torch.float32)
    obs = observe()
    chunk = policy.act(obs, SENTENCES, keys())
    assert chunk.logprob.dtype == np.float32
    scores = policy.evaluate(obs, SENTENCES, chunk.raw, chunk.features)
    np.testing.assert_allclose(scores.logprob.detach(), chunk.logprob, atol=1e-4)
    scores.logprob.sum().backward()  # type: ignore[no-untyped-call]
    assert any(p.grad is not None and p.grad.any() for p in policy.groups()["vlm"])


def test_a_short_cloning_lowers_the_loss() -> None:
    pool = SlotPool("point_reach", point_reach.Settings())
    data = ChunkDataset([pool.record(spec) for spec in WORLD.resolve().specs("demo", 3)], C)
    losses = fit(flyer(chunk=C), data, SFTConfig(steps=60, batch_size=16, lr=3e-3))
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])


# ------------------------------------------------------------------------------ without the folder


def test_workers_and_saved_policies_need_neither_tokenizer_nor_hub(tmp_path: Path) -> None:
    away = tmp_path / "model"
    shutil.copytree(tiny_pi0.folder(), away)
    policy, obs = make(model=str(away)), observe()
    policy.save_pretrained(tmp_path / "saved")
    expected = policy.act(obs, SENTENCES, keys())
    shutil.rmtree(away)
    pi0_inputs.reader.cache_clear()
    worker = pi0.Policy.blank(policy.config, SPACES)
    worker.load_state_dict(policy.state_dict())
    worker.text_memory = policy.text_memory
    for other in (worker, load_policy(tmp_path / "saved")):
        np.testing.assert_array_equal(other.act(obs, SENTENCES, keys()).raw, expected.raw)
        assert other.config == policy.config
    with pytest.raises(ValueError, match="no pi0 could be read from model"):
        worker.remember(["something new"])
    loaded = load_policy(tmp_path / "saved")
    shutil.rmtree(tmp_path / "saved")
    fresh = make()
    for reader in (loaded, fresh):
        reader.remember(["something new"])
    new = "something new"
    np.testing.assert_array_equal(loaded.text_memory[new], fresh.text_memory[new])
    loaded.save_pretrained(tmp_path / "again")
    assert load_policy(tmp_path / "again").config == policy.config


def test_random_weights_on_request() -> None:
    policy = make(pretrained=False)
    policy.act(observe(), SENTENCES, keys())
    loaded = make().state_dict()
    name = "head.whole.expert.net.action_out_proj.weight"
    assert not torch.equal(policy.state_dict()[name], loaded[name])


# ------------------------------------------------------------------------------------- bad settings


@pytest.mark.parametrize(
    ("spaces", "settings", "message"),
    [
        ({"action_dim": 5}, {}, "actions of 5 dimensions .* max_action_dim is 4"),
        ({"state_dim": 7}, {}, "proprioception of 7 dimensions .* max_state_dim is 6"),
        ({}, {"chunk": 6}, "a chunk of 6 actions .* chunk_size is 5: choose a shorter chunk"),
        ({}, {"vlm_words": 4}, "needs 11 tokens more than the 4 of vlm_words; raise it to 15"),
        ({}, {"lora_rank": 2, "lora_targets": ("p_proj",)}, "match no layer; .*q_proj"),
        ({}, {"model": "/nowhere"}, "no pi0 could be read from model '/nowhere'"),
    ],
)
def test_what_does_not_fit_the_model_is_named(
    spaces: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(replace(SPACES, **spaces), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": "gaussian"}, "unknown head 'gaussian'.*flow_sde, flow_noise"),
        ({"vlm_trains": ("vison",)}, "unknown part of a vision-language model 'vison'"),
        ({"vlm_trains": ()}, "trains is empty"),
        ({"vlm_words": 0}, "words 0 is outside"),
        ({"lora_rank": -1}, "lora_rank -1 is outside"),
        ({"lora_targets": ("q_proj",)}, "need a lora_rank above 0"),
        ({"precision": "half"}, "unknown precision 'half'"),
    ],
)
def test_bad_settings_are_named_before_a_model_is_asked_for(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        composed(pi0.Config, **settings)


def test_another_model_is_no_pi0(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="it is a 'llama', not a 'pi0'"):
        make(model=str(tmp_path))


def test_an_old_transformers_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers, "__version__", "4.57.1")
    pi0_inputs.reader.cache_clear()
    with pytest.raises(ValueError, match=r"needs transformers 5.*4\.57\.1 is installed: pip"):
        make()
