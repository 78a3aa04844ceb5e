"""LeRobot's policies keep the contract of policies, and act as LeRobot's own code does."""

from __future__ import annotations

import atexit
import copy
import functools
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vla_rl.policies._lerobot.config import Config

pytest.importorskip("lerobot")

from tests.policies.test_policies import (
    CHUNK,
    SENTENCES,
    SPACES,
    Case,
    act,
    blindfold,
    keys,
    observe,
    same,
    sentences,
    step,
)
from vla_rl.action_head import DENSITIES
from vla_rl.functional import diffusion
from vla_rl.policies import lerobot
from vla_rl.policy import load_policy
from vla_rl.types import Spaces

ACT = (
    *("dim_model=32", "n_heads=2", "dim_feedforward=32", "n_encoder_layers=1", "latent_dim=4"),
    *("n_vae_encoder_layers=1", "pretrained_backbone_weights=null"),
)
DIFFUSION = (
    *("down_dims=[16,32]", "diffusion_step_embed_dim=16", "n_groups=4"),
    "spatial_softmax_num_keypoints=8",
)
SMOLVLA = (
    *("num_vlm_layers=2", "max_state_dim=6", "max_action_dim=4", "tokenizer_max_length=24"),
    *("resize_imgs_with_padding=[32,32]", "train_expert_only=false"),
    *("freeze_vision_encoder=false", "num_steps=3"),
)


@functools.cache
def smolvlm() -> str:
    """A tiny random SmolVLM; its processor, which needs one more package, is not written."""
    import transformers

    from tests.policies import vlm_families as families

    folder = tempfile.mkdtemp(prefix="tiny-smolvlm-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tokenizer = families._split_tokenizer()
    config = transformers.SmolVLMConfig(
        text_config={"model_type": "llama", **families._text(tokenizer)},
        vision_config=families._VISION,
        scale_factor=2,
        image_token_id=families._id(tokenizer, "<image>"),
    )
    families._save(Path(folder), tokenizer, config)  # type: ignore[arg-type]
    return folder


def smolvla_files() -> dict[str, Any]:
    return {"options": (*SMOLVLA, f"vlm_model_name={smolvlm()}")}


def case_of(kind: str, **settings: Any) -> Case:
    usual: dict[str, Any] = {"act": {"options": ACT}, "diffusion": {"options": DIFFUSION}}
    files = smolvla_files if kind == "smolvla" else dict
    return Case(
        kind, lerobot, {"kind": kind, "text": "hash", **usual.get(kind, {}), **settings}, files
    )


CASES = {
    "act": case_of("act"),
    "diffusion": case_of("diffusion", denoising_steps=4, scored_steps=2),
    "smolvla": case_of("smolvla"),
}


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def made_by_lerobot(kind: str, folder: Path, spaces: Spaces = SPACES, **changes: Any) -> Any:
    """LeRobot's own policy with its pipelines, written to a folder; returns all three."""
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.factory import get_policy_class, make_policy_config
    from lerobot.policies.factory import make_pre_post_processors as pipelines

    options: dict[str, tuple[str, ...]] = {
        "act": (*ACT, "chunk_size=5", "n_action_steps=4"),
        "diffusion": (*DIFFUSION, "n_obs_steps=2", "horizon=8", "n_action_steps=4"),
        "smolvla": (*SMOLVLA, "chunk_size=5", "n_action_steps=4"),
    }
    settings = {}
    for option in options[kind]:
        name, _, value = option.partition("=")
        settings[name] = json.loads(value)
    if kind == "smolvla":
        settings["vlm_model_name"] = smolvlm()
    shape = (3, spaces.image_size, spaces.image_size)
    images = [f"observation.images.{view}" for view in spaces.views]
    config = make_policy_config(
        kind,
        input_features={
            **{key: PolicyFeature(FeatureType.VISUAL, shape) for key in images},
            "observation.state": PolicyFeature(FeatureType.STATE, (spaces.state_dim,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (spaces.action_dim,))},
        device="cpu",
        **{**settings, **changes},
    )
    generator = torch.Generator().manual_seed(0)

    def numbers(*size: int) -> dict[str, torch.Tensor]:
        low, span = torch.randn(size, generator=generator), torch.rand(size, generator=generator)
        return {"mean": low, "std": span + 0.5, "min": low - 1, "max": low + 1 + span}

    statistics = {key: numbers(3, 1, 1) for key in images}
    statistics |= {"observation.state": numbers(3), "action": numbers(2)}
    statistics["action"] = {n: 0.2 * x for n, x in statistics["action"].items()}
    torch.manual_seed(0)
    net = smolvla(config) if kind == "smolvla" else get_policy_class(kind)(config)
    net.eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    net.save_pretrained(folder)
    before, after = pipelines(config, dataset_stats=statistics)
    before.save_pretrained(folder)
    after.save_pretrained(folder)
    return net, before, after


def smolvla(config: Any) -> Any:
    """LeRobot's SmolVLA without the processor, which is asked for two token ids only."""
    from unittest import mock

    from lerobot.policies.smolvla import smolvlm_with_expert
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

    tokens = SimpleNamespace(fake_image_token_id=1, global_image_token_id=2)
    processor = SimpleNamespace(from_pretrained=lambda name: SimpleNamespace(tokenizer=tokens))
    with mock.patch.object(smolvlm_with_expert, "AutoProcessor", processor):
        return SmolVLAPolicy(config)


def batch_of(obs: Any, words: list[str], spaces: Spaces = SPACES) -> dict[str, Any]:
    pixels = torch.tensor(obs.images).permute(0, 1, 4, 2, 3).float() / 255
    images = {f"observation.images.{view}": pixels[:, i] for i, view in enumerate(spaces.views)}
    return {**images, "observation.state": torch.tensor(obs.state), "task": words}


def loaded(folder: Path, spaces: Spaces = SPACES, **settings: Any) -> lerobot.Policy:
    config = Config(model=str(folder), text="hash", **{"chunk": CHUNK, **settings})
    torch.manual_seed(0)  # of what LeRobot has not: the critic and the scale
    policy = lerobot.Policy(config, spaces)
    policy.remember(SENTENCES)
    return policy


# ------------------------------------------------------------------ as LeRobot itself would do it


def test_act_does_what_lerobot_does(tmp_path: Path) -> None:
    net, before, after = made_by_lerobot("act", tmp_path)
    obs, words = observe(4), sentences(4)
    expected = after(net.predict_action_chunk(before(batch_of(obs, words)))).numpy()[:, :CHUNK]
    found = loaded(tmp_path).act(obs, words, None)
    np.testing.assert_allclose(found.raw.reshape(4, CHUNK, 2), expected, atol=1e-5)
    np.testing.assert_allclose(found.actions, expected.clip(-1, 1), atol=1e-5)
    assert np.abs(expected).max() > 0.2


def test_smolvla_does_what_lerobot_does(tmp_path: Path) -> None:
    net, before, after = made_by_lerobot("smolvla", tmp_path)
    obs, words = observe(4), sentences(4)
    start = torch.zeros(4, 5, 4)
    chunk = net.predict_action_chunk(before(batch_of(obs, words)), noise=start)
    expected = after(chunk).numpy()[:, :CHUNK]
    found = loaded(tmp_path).act(obs, words, None).actions
    np.testing.assert_allclose(found, expected.clip(-1, 1), atol=1e-4)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3


def test_diffusion_does_what_lerobot_does(tmp_path: Path) -> None:
    sampler: dict[str, Any] = {
        "noise_scheduler_type": "DDIM",
        "num_inference_steps": 4,
        "clip_sample": False,
    }
    net, before, after = made_by_lerobot("diffusion", tmp_path, **sampler)
    obs, words = observe(4), sentences(4)
    batch = before(batch_of(obs, words))
    twice = {"observation.state": batch["observation.state"][:, None].repeat(1, 2, 1)}
    views = torch.stack([batch[f"observation.images.{view}"] for view in SPACES.views], dim=1)
    twice["observation.images"] = views[:, None].repeat(1, 2, 1, 1, 1, 1)
    with torch.no_grad():
        chunk = net.diffusion.generate_actions(twice, noise=torch.zeros(4, 8, 2))
    expected = after(chunk).numpy()[:, :CHUNK]
    found = loaded(tmp_path).act(obs, words, None).actions
    np.testing.assert_allclose(found, expected.clip(-1, 1), atol=1e-4)


def test_a_diffusion_step_is_that_of_ddpm() -> None:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2")
    scheduler.set_timesteps(5)
    sample, said = torch.randn(2, 3), torch.randn(2, 3)
    ahead = [int(t) for t in scheduler.timesteps]
    for now, later in zip(ahead[:-1], ahead[1:], strict=True):
        alpha, alpha_next = scheduler.alphas_cumprod[[now, later]]
        clean = diffusion.clean(sample, said, alpha).clamp(-1, 1)
        law = diffusion.step(sample, clean, alpha, alpha_next)
        noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
        found = scheduler.step(
            said, now, sample, generator=torch.Generator().manual_seed(0)
        ).prev_sample
        torch.testing.assert_close(law.mean + law.std * noise, found, atol=1e-5, rtol=1e-5)


def test_a_diffusion_step_by_hand() -> None:
    # x_0 = 1 and eps = 2 at alpha = .36: .6 * 1 + .8 * 2 = 2.2; next .64: variance
    # .36 / .64 * (1 - .36 / .64) = .24609, mean .8 + sqrt(.36 - .24609) * 2.
    one, alpha, alpha_next = torch.tensor(1.0), torch.tensor(0.36), torch.tensor(0.64)
    sample = diffusion.noised(one, 2 * one, alpha)
    assert float(sample) == pytest.approx(2.2)
    assert float(diffusion.clean(sample, 2 * one, alpha)) == pytest.approx(1.0)
    law = diffusion.step(sample, one, alpha, alpha_next)
    assert float(law.std) == pytest.approx(0.24609**0.5, abs=1e-4)
    assert float(law.mean) == pytest.approx(0.8 + 2 * 0.11391**0.5, abs=1e-4)
    assert float(law.still) == pytest.approx(0.8 + 0.6 * 2)


# ----------------------------------------------------------------------------------- what is kept


@pytest.mark.parametrize("kind", ["act", "smolvla"])
def test_a_saved_policy_needs_lerobots_folder_no_more(kind: str, tmp_path: Path) -> None:
    made_by_lerobot(kind, tmp_path / "theirs")
    policy = loaded(tmp_path / "theirs")
    policy.save_pretrained(tmp_path / "ours")
    shutil.rmtree(tmp_path / "theirs")
    again = load_policy(tmp_path / "ours", SPACES)
    assert same(act(policy), act(again))
    worker = lerobot.Policy.blank(policy.config, SPACES)
    worker.load_state_dict(policy.state_dict())
    worker.text_memory = policy.text_memory
    assert same(act(policy), act(worker))
    again.remember(["press the button"])


def test_pretrained_statistics_stay(tmp_path: Path) -> None:
    made_by_lerobot("act", tmp_path)
    policy = loaded(tmp_path)
    mean = policy.state_mean.clone()
    policy.fit_statistics(observe(20).state)
    assert torch.equal(policy.state_mean, mean)
    assert not torch.equal(mean, torch.zeros(3))


def test_smolvla_moves_to_another_robot(tmp_path: Path) -> None:
    made_by_lerobot("smolvla", tmp_path)
    spaces = Spaces(views=("top",), image_size=20, state_dim=5, action_dim=4)
    with pytest.raises(ValueError, match=r"proprioception have shape \(3,\), the suite's \(5,\)"):
        loaded(tmp_path, spaces)
    policy = loaded(tmp_path, spaces, adapt=True)
    chunk = policy.act(observe(2, spaces), sentences(2), None)
    assert chunk.actions.shape == (2, CHUNK, 4)
    policy.fit_statistics(observe(20, spaces).state)
    assert not torch.equal(policy.state_mean, torch.zeros(5))


def test_the_default_smolvla_keeps_what_it_sees() -> None:
    frozen: dict[str, Any] = {"options": (*smolvla_files()["options"], "train_expert_only=true")}
    policy = replace(CASES["smolvla"], files=dict).make(**frozen)
    assert policy.groups()["vlm"] == []
    assert policy.caches
    obs, words = observe(4), sentences(4)
    chunk = policy.act(obs, words, keys(4))
    assert chunk.features.shape == (4, 2 * 4 * 32)
    scores = policy.evaluate(blindfold(obs), words, chunk.raw, chunk.features)
    np.testing.assert_allclose(scores.logprob.detach().numpy(), chunk.logprob, atol=1e-5)
    vlm: Any = policy.get_submodule("body.head.whole.net.vlm_with_expert.vlm")
    before = copy.deepcopy(vlm.state_dict())
    step(policy)
    after = vlm.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(
    "settings", [{"stochastic": "one"}, {"head": "flow_noise"}, {"rho": 0.5}], ids=str
)
def test_the_other_chains_of_smolvla_repeat_their_logprob(settings: dict[str, Any]) -> None:
    policy = CASES["smolvla"].make(**settings)
    obs, words = observe(4), sentences(4)
    chunk = policy.act(obs, words, keys(4))
    scores = policy.evaluate(obs, words, chunk.raw, chunk.features)
    np.testing.assert_allclose(scores.logprob.detach().numpy(), chunk.logprob, atol=1e-5)
    assert np.isfinite(scores.entropy.detach().numpy()).all()


def test_imitation_learns_and_respects_the_mask(case: Case) -> None:
    policy = case.make()
    policy.freeze({"vlm"})
    obs, words = observe(16), sentences(16)
    actions = np.repeat(np.tanh(obs.state[:, None, :2]), CHUNK, axis=1).astype(np.float32)
    mask = np.ones((16, CHUNK), bool)
    mask[:, -1] = False
    actions[:, -1] = 1e6
    features = policy.features(obs, words)
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3)

    def error() -> float:
        found = policy.act(obs, words, None).actions
        return float(np.square(found - actions)[mask].mean())

    before, losses = error(), []
    for _ in range(80):
        optimizer.zero_grad()
        loss = policy.imitation_loss(obs, words, actions, mask, features)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-8:]) < 0.7 * np.mean(losses[:4])
    assert error() < 0.3 * before


def test_imitation_draws_from_the_generator_that_is_given(case: Case) -> None:
    policy = case.make()
    actions, mask = np.zeros((4, CHUNK, 2), np.float32), np.ones((4, CHUNK), bool)
    losses = []
    for seed in (3, 4, 3):
        generator = torch.Generator().manual_seed(seed)
        loss = policy.imitation_loss(observe(4), sentences(4), actions, mask, generator=generator)
        losses.append(float(loss.detach()))
    assert losses[0] == losses[2] != losses[1]


@pytest.mark.parametrize("density", DENSITIES)
def test_any_density_repeats_its_logprob(case: Case, density: str) -> None:
    policy = case.make(rho=0.5, episode_share=0.2)
    policy.use_density(density)
    obs, words = observe(4), sentences(4)
    chunk = policy.act(obs, words, keys(4))
    scores = policy.evaluate(obs, words, chunk.raw, chunk.features)
    np.testing.assert_allclose(scores.logprob.detach().numpy(), chunk.logprob, atol=1e-4)
    assert policy.exactness().between_decisions == (density in ("decision", "episode"))
    head = {id(p) for p in policy.groups()["head"]}
    assert {id(p) for p in policy.deviations()} <= head


def test_only_smolvla_reads_instructions(case: Case) -> None:
    policy = case.make()
    raws = [policy.act(observe(1), [sentence], None).raw for sentence in SENTENCES]
    reads = np.abs(raws[0] - raws[1]).max() > 1e-4
    assert reads == (case.name == "smolvla")


# ------------------------------------------------------------------------------- clear refusals


def test_cameras_are_matched_by_name_or_order(tmp_path: Path) -> None:
    made_by_lerobot("act", tmp_path)
    swapped = replace(SPACES, views=("wrist", "front"))
    obs, words = observe(2), sentences(2)
    turned = replace(obs, images=obs.images[:, ::-1].copy())
    there = loaded(tmp_path).act(obs, words, None)
    assert same(there, loaded(tmp_path, swapped).act(turned, words, None))
    others = replace(SPACES, views=("top", "side"))
    assert same(there, loaded(tmp_path, others).act(obs, words, None))
    assert same(there, loaded(tmp_path, others, views=("side", "top")).act(turned, words, None))
    with pytest.raises(ValueError, match=r"images.front, .*the suite has top: say which"):
        loaded(tmp_path, replace(SPACES, views=("top",)))
    with pytest.raises(ValueError, match="unknown view 'tpo'; did you mean 'top'"):
        loaded(tmp_path, others, views=("side", "tpo"))
    with pytest.raises(ValueError, match=r"actions have shape \(2,\), the suite's \(4,\)"):
        loaded(tmp_path, replace(SPACES, action_dim=4))
    with pytest.raises(ValueError, match="chunk 6 is longer than this ACT's, 5"):
        loaded(tmp_path, chunk=6)
    (tmp_path / "policy_preprocessor.json").unlink()
    with pytest.raises(ValueError, match="is missing. LeRobot before 0.4"):
        loaded(tmp_path)


def test_images_are_scaled_to_the_size_of_the_policy(tmp_path: Path) -> None:
    made_by_lerobot("act", tmp_path)
    policy = loaded(tmp_path, replace(SPACES, image_size=32))
    fine = observe(1).images.repeat(2, axis=2).repeat(2, axis=3)
    found = policy._pictures(torch.tensor(fine))
    expected = loaded(tmp_path)._pictures(torch.tensor(observe(1).images))
    assert found.shape == expected.shape == (1, 2, 3, 16, 16)
    assert float((found - expected).abs().mean()) < 0.5 * float(expected.std())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "act", "options": ("dim_modle=3",)}, "unknown LeRobot setting 'dim_modle'; did"),
        ({"kind": "act", "options": ("dim_model",)}, "must look like name=value"),
        ({"kind": "act", "options": ("chunk_size=2",)}, "LeRobot refuses this act"),
        ({"kind": "pi0"}, "--network pi0 --net.model lerobot/pi0_base"),
        ({"kind": "atc"}, "unknown kind of LeRobot policy 'atc'; did you mean 'act'"),
        ({"kind": "act", "denoising_std": 0.2}, "denoising_std 0.2 is a setting of diffusion"),
        ({"kind": "act", "head": "ddpm"}, "unknown head of act 'ddpm'"),
        ({"kind": "act", "head": "lapalce"}, "did you mean 'laplace'"),
        ({"kind": "act", "chunk": 0}, "chunk 0 is outside"),
        ({"kind": "act", "rho": 1.0}, r"rho 1.0 is outside the allowed range \[0, 1\)"),
        ({"kind": "act", "adapt": True}, "name it as model"),
        ({"kind": "diffusion", "denoising_std": 0.0}, "denoising_std 0.0 is outside"),
        ({"kind": "diffusion", "denoising_steps": 101}, "is more than the policy was trained with"),
        ({"kind": "smolvla", "noise_level": 2.0}, "noise_level 2.0 is outside"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    if settings["kind"] == "smolvla":
        settings = {**settings, **smolvla_files()}
    if settings["kind"] == "diffusion":
        settings = {"options": DIFFUSION, **settings}
    with pytest.raises(ValueError, match=message):
        lerobot.Policy(Config(text="hash", **{"chunk": CHUNK, **settings}), SPACES)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config.json is missing; is .* the folder of a LeRobot"):
        loaded(tmp_path)
    CASES["act"].make().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a policy of vla-rl, not of LeRobot"):
        loaded(tmp_path)


def test_suites_without_cameras_are_refused(case: Case) -> None:
    with pytest.raises(ValueError, match="needs images, but this suite has no cameras"):
        case.make(replace(SPACES, views=()))
