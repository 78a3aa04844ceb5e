"""Vision-language models of transformers as backbones: every family, tiny and random."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from tests.helpers import composed
from tests.policies import vlm_families
from vla_rl.learning.learner import Learner, LearnerConfig
from vla_rl.policies import vla
from vla_rl.policies._vlm import embedded
from vla_rl.policies._vlm import inputs as vlm_inputs
from vla_rl.policies._vlm import network as vlm_network
from vla_rl.policy import load_policy
from vla_rl.rollout.policy_worker import PolicyRecipe
from vla_rl.types import ActionChunk, Observation, Spaces

SPACES = Spaces(views=("front", "wrist"), image_size=64, state_dim=3, action_dim=2)
SENTENCES = ("open the drawer", "close the big red drawer")
FAMILIES = sorted(vlm_families.FAMILIES)

Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    made: dict[str, Path] = {}

    def of(family: str) -> Path:
        if family not in made:
            target = tmp_path_factory.mktemp("models") / family
            made[family] = vlm_families.build(family, target)
        return made[family]

    return of


@pytest.fixture(scope="module")
def llava(folder: Folder) -> Path:
    return folder("llava")


def config_of(folder: Path | str, **settings: Any) -> vla.Config:
    base = {"chunk": 3, "text": "hash", "precision": "float32", "width": 8, "hidden": (16,)}
    made: vla.Config = composed(vla.Config, **{**base, "backbone": f"vlm:{folder}", **settings})
    return made


def make(folder: Path | str, spaces: Spaces = SPACES, **settings: Any) -> Any:
    torch.manual_seed(0)
    policy = vla.Policy(config_of(folder, **settings), spaces)
    policy.remember(SENTENCES)
    with torch.no_grad():
        for parameter in policy.groups()["vlm"]:  # adapters start as nothing
            parameter.add_(0.05 * torch.randn_like(parameter))
    return policy


def observe(rows: int, seed: int = 0) -> Observation:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (rows, 2, 64, 64, 3), dtype=np.uint8)
    return Observation(images, generator.normal(size=(rows, 3)).astype(np.float32))


def said(rows: int) -> list[str]:
    return [SENTENCES[row % 2] for row in range(rows)]


def keys(rows: int) -> np.ndarray:
    return np.stack([np.arange(rows) + 7, np.arange(rows)], axis=1)


def act(policy: Any, rows: int = 4) -> ActionChunk:
    chunk: ActionChunk = policy.act(observe(rows), said(rows), keys(rows))
    return chunk


def blindfold(obs: Observation) -> Observation:
    return replace(obs, images=np.zeros((len(obs.state), 0, 64, 64, 3), np.uint8))


def seen(policy: vla.Policy, images: np.ndarray, sentences: list[str]) -> torch.Tensor:
    with torch.no_grad():
        return policy.encode_images(torch.tensor(images), policy._words(sentences))


@contextmanager
def no_processor() -> Iterator[None]:
    """As in a worker: nothing but the text of ``architecture`` and the weights is there."""
    with (
        mock.patch.object(transformers.AutoProcessor, "from_pretrained", side_effect=OSError),
        mock.patch.object(transformers.AutoConfig, "from_pretrained", side_effect=OSError),
        mock.patch.object(
            transformers.AutoModelForImageTextToText, "from_pretrained", side_effect=OSError
        ),
    ):
        yield


# ------------------------------------------------------------------------------- every family


@pytest.mark.parametrize("lora_rank", [0, 2], ids=["weights", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_keeps_the_contract(
    folder: Folder, tmp_path: Path, family: str, lora_rank: int
) -> None:
    policy = make(folder(family), lora_rank=lora_rank, backbone_tokens="all")
    obs, words = observe(4), said(4)
    for frozen in ((), ("vlm",)):  # acting keeps image features, then hidden states
        policy.freeze(frozen)
        assert policy.caches
        chunk = act(policy)
        scores = policy.evaluate(blindfold(obs), words, chunk.raw, chunk.features)
        np.testing.assert_allclose(scores.logprob.detach(), chunk.logprob, atol=1e-4)
        np.testing.assert_allclose(scores.value.detach(), chunk.value, atol=1e-4)
        alone = policy.act(obs[1:2], words[1:2], keys(4)[1:2])
        np.testing.assert_allclose(alone.logprob[0], chunk.logprob[1], atol=2e-3)
    # An update moves the parts that are trained and nothing else.
    policy.freeze(())
    before = copy.deepcopy(policy.state_dict())
    learner = Learner(policy, LearnerConfig(lr=1e-2), trains=("vlm", "head"))
    actions, mask = np.zeros((4, 3, 2), np.float32), np.ones((4, 3), bool)
    learner.accumulate(policy.imitation_loss(obs, words, actions, mask))
    learner.step()
    after = policy.state_dict()
    moved = {name for name, old in before.items() if not torch.equal(old, after[name])}
    network = {name for name in moved if name.startswith("vision.net.")}
    assert network
    assert {vlm_network.part_of(name) for name in network} == {"language"}
    assert all(vlm_network.ADAPTER in name for name in network) == bool(lora_rank)
    assert not any(name.startswith("critic") for name in moved)
    # What was saved acts alike, and so does a worker's copy, where nothing but weights is.
    policy.save_pretrained(tmp_path)
    loaded = load_policy(tmp_path)
    with no_processor():
        rebuilt = PolicyRecipe.of(policy).build()
        rebuilt.load_state_dict(policy.state_dict())
        rebuilt.text_memory = policy.text_memory
        for twin in (loaded, rebuilt):
            twin.freeze(())
            assert np.array_equal(act(twin).actions, act(policy).actions)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_seen_depends_on_images_and_instruction(folder: Folder, family: str) -> None:
    policy = make(folder(family), backbone_tokens="last")
    images = observe(2).images
    for pictures, words in ((images, [SENTENCES[0]] * 2), (images[[0, 0]], list(SENTENCES))):
        one, other = seen(policy, pictures, words)
        assert not torch.allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("family", ["smolvlm", "idefics3", "internvl", "qwen2_5_vl", "qwen3_vl"])
def test_the_image_size_can_be_chosen(folder: Folder, family: str) -> None:
    own, larger = make(folder(family)), make(folder(family), size=96)
    assert larger.vision.grid.positions > own.vision.grid.positions
    assert act(larger).actions.shape == (4, 3, 2)


def test_hidden_states_are_those_of_transformers(llava: Path) -> None:
    policy = make(llava, backbone_tokens="last", lora_rank=0)
    processor = transformers.AutoProcessor.from_pretrained(llava)
    model = transformers.AutoModelForImageTextToText.from_pretrained(llava)
    model.load_state_dict({**model.state_dict(), **policy.vision.net.state_dict()})
    obs = observe(1)
    text = "What should the robot do to open the drawer?"
    turn = [{"type": "image", "image": image} for image in obs.images[0]]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": [*turn, {"type": "text", "text": text}]}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states[-1][0, -1]
    expected = torch.nn.functional.layer_norm(states, states.shape)
    torch.testing.assert_close(seen(policy, obs.images, ["open the drawer"])[0], expected)


# -------------------------------------------------------------------------------- the settings


def test_image_tokens_of_a_causal_model_know_only_what_stands_before_them(llava: Path) -> None:
    images = observe(1).images[[0, 0]]
    behind = seen(make(llava), images, list(SENTENCES))
    assert torch.equal(behind[0], behind[1])
    before = seen(make(llava, prompt="{instruction}{images}"), images, list(SENTENCES))
    assert not torch.allclose(before[0], before[1], atol=1e-3)


def test_the_grid_follows_the_choice_of_tokens(llava: Path) -> None:
    grids = {
        kind: make(llava, backbone_tokens=kind).vision.grid for kind in ("image", "last", "all")
    }
    assert grids == {"image": (2, 16, 32), "last": (1, 1, 32), "all": (1, 33, 32)}


@pytest.mark.parametrize("family", ["llava", "gemma3", "blip_2", "florence2"])
def test_upper_layers_are_left_out(folder: Folder, family: str) -> None:
    whole, cut = make(folder(family)), make(folder(family), layers=1)
    sizes = [sum(p.numel() for p in policy.vision.net.parameters()) for policy in (whole, cut)]
    assert sizes[1] < sizes[0]
    assert act(cut).actions.shape == (4, 3, 2)
    # The lowest layer kept its weights.
    one = dict(cut.vision.net.named_parameters())
    same = [torch.equal(p, one[n]) for n, p in whole.vision.net.named_parameters() if n in one]
    assert len(same) == len(one)


def test_adapters_go_where_they_are_asked_for(llava: Path) -> None:
    policy = make(llava, lora_rank=2, lora_targets=("q_proj", "v_proj"))
    named = {id(p): n for n, p in policy.vision.net.named_parameters()}
    names = [named[id(p)] for p in policy.groups()["vlm"]]
    assert len(names) == 3 * 2 * 2  # layers, targets, A and B
    assert all("language_model" in n and (".q_proj." in n or ".v_proj." in n) for n in names)
    both = make(llava, lora_rank=2, trains=("language", "vision", "connector"))
    parts = {id(p): vlm_network.part_of(n) for n, p in both.vision.net.named_parameters()}
    assert {parts[id(p)] for p in both.groups()["vlm"]} == {"language", "vision", "connector"}
    assert not both.caches


def test_a_trained_vision_tower_gets_a_gradient(llava: Path) -> None:
    policy = make(llava, trains=("vision", "connector"))
    chunk = act(policy)
    assert chunk.features.shape == (4, 0)
    scores = policy.evaluate(observe(4), said(4), chunk.raw, chunk.features)
    np.testing.assert_allclose(scores.logprob.detach(), chunk.logprob, atol=1e-4)
    scores.logprob.sum().backward()
    given = {n for n, p in policy.vision.net.named_parameters() if p.grad is not None}
    assert {vlm_network.part_of(name) for name in given} == {"vision", "connector"}


def calls_of(module: nn.Module) -> list[int]:
    calls: list[int] = []
    module.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def test_updates_start_behind_the_frozen_vision_tower(llava: Path) -> None:
    policy = make(llava, lora_rank=2)
    tower = calls_of(policy.vision.net.model.vision_tower)
    layer = calls_of(policy.vision.net.model.language_model.layers[0])
    chunk = act(policy)
    assert (len(tower), len(layer)) == (1, 1)
    policy.evaluate(blindfold(observe(4)), said(4), chunk.raw, chunk.features)
    assert (len(tower), len(layer)) == (1, 2)
    policy.freeze({"vlm"})
    chunk = act(policy)
    policy.evaluate(blindfold(observe(4)), said(4), chunk.raw, chunk.features)
    assert (len(tower), len(layer)) == (2, 3)


@pytest.mark.parametrize("family", ["llava", "smolvlm", "idefics3", "internvl", "fast_vlm"])
def test_the_beginning_of_a_prompt_is_read_once_while_frozen(folder: Folder, family: str) -> None:
    policy = make(
        folder(family), backbone_tokens="all", prompt="{instruction}, please! {images}Go."
    )
    read: list[int] = []
    words = policy.vision.net.get_input_embeddings()
    words.register_forward_pre_hook(lambda _, given: read.append(given[0].numel()))
    obs = observe(4)
    expected = seen(policy, obs.images, said(4))
    whole = sum(read)
    policy.freeze({"vlm"})
    for again in range(2):
        read.clear()
        kept = policy.features(obs, said(4))
        np.testing.assert_allclose(kept, expected, atol=5e-3)  # kept in float16
        assert sum(read) < whole - 4 * 8 * again
    # Other weights, other keys and values.
    with torch.no_grad():
        for parameter in policy.groups()["vlm"]:
            parameter.add_(0.05)
    moved = seen(policy, obs.images, said(4))
    assert not torch.allclose(moved, expected, atol=5e-3)
    np.testing.assert_allclose(policy.features(obs, said(4)), moved, atol=5e-3)


def test_a_sentence_is_read_once(llava: Path) -> None:
    policy = make(llava)
    with no_processor():
        act(policy)
        policy.remember(SENTENCES)  # known already


def test_activations_are_computed_again_and_gradients_are_equal(llava: Path) -> None:
    gradients, calls = [], []
    for checkpointing in (False, True):
        policy = make(llava, lora_rank=2, gradient_checkpointing=checkpointing)
        chunk = act(policy)
        layer = calls_of(policy.vision.net.model.language_model.layers[0].mlp)
        scores = policy.evaluate(observe(4), said(4), chunk.raw, chunk.features)
        scores.logprob.sum().backward()
        calls.append(len(layer))
        gradients.append([p.grad for p in policy.groups()["vlm"]])
    assert calls == [1, 2]
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


def test_bfloat16_keeps_adapters_and_heads_in_float32(llava: Path) -> None:
    policy = make(llava, lora_rank=2, precision="bfloat16")
    kinds = {p.dtype for p in policy.groups()["vlm"]}
    frozen = {p.dtype for p in policy.vision.net.parameters() if not p.requires_grad}
    assert (kinds, frozen) == ({torch.float32}, {torch.bfloat16})
    chunk = act(policy)
    scores = policy.evaluate(observe(4), said(4), chunk.raw, chunk.features)
    assert scores.logprob.dtype == torch.float32
    np.testing.assert_allclose(scores.logprob.detach(), chunk.logprob, atol=1e-4)
    exact = make(llava, lora_rank=2, precision="float32")
    assert np.abs(act(exact).actions - chunk.actions).max() < 0.05


def test_a_reference_copy_is_independent(llava: Path) -> None:
    policy = make(llava, lora_rank=2, gradient_checkpointing=True)
    twin = copy.deepcopy(policy)
    assert np.array_equal(act(twin).actions, act(policy).actions)
    with torch.no_grad():
        for parameter in policy.groups()["vlm"]:
            parameter.add_(1.0)
    assert not np.array_equal(act(twin).actions, act(policy).actions)


def test_a_moved_policy_reads_new_instructions(folder: Folder, tmp_path: Path) -> None:
    source = tmp_path / "model"
    shutil.copytree(folder("llava"), source)
    policy = make(source)
    policy.save_pretrained(tmp_path / "saved")
    shutil.rmtree(source)
    (tmp_path / "saved").rename(tmp_path / "elsewhere")
    loaded = load_policy(tmp_path / "elsewhere")
    loaded.remember(["fetch the cup"])
    policy.remember(["fetch the cup"])
    assert np.array_equal(loaded.text_memory["fetch the cup"], policy.text_memory["fetch the cup"])


# ------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 9}, r"layers 9 is outside the allowed range 1, \.\.\., 3"),
        ({"lora_rank": 2, "lora_targets": ("wq",)}, r"match no layer; there are down_proj"),
        ({"words": 1}, r"'open the drawer' needs \d+ tokens more than the 1"),
        ({"prompt": "do it"}, r"must hold \{instruction\}"),
        ({"backbone_tokens": "first"}, "backbone.tokens 'first'"),
        ({"trains": ("eyes",)}, "part of a vision-language model 'eyes'"),
        ({"lora_targets": ("q_proj",)}, "need a lora_rank above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    llava: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(llava, **settings)


def test_a_size_that_a_model_cannot_take_is_refused(folder: Folder) -> None:
    with pytest.raises(ValueError, match=r"size 64: .* takes images of its own size only"):
        make(folder("paligemma"), size=64)


def test_words_before_the_images_need_a_chat_template(folder: Folder) -> None:
    with pytest.raises(ValueError, match="puts images first"):
        make(folder("paligemma"), prompt="{instruction}{images}")


def test_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no vision-language model could be read from"):
        make(tmp_path / "nothing")
    with pytest.raises(ValueError, match="has no cameras"):
        make(tmp_path, spaces=replace(SPACES, views=()))


# ---------------------------------------------------------------------- the model out of packages


def test_timm_names_become_those_of_dinov2(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    monkeypatch.setattr(embedded, "_BLOCKS", 2)
    name = "vit_small_patch14_dinov2"
    net = timm.create_model(name, depth=2, pretrained=False, dynamic_img_size=True).eval()
    config = transformers.Dinov2Config(
        hidden_size=384, num_hidden_layers=2, num_attention_heads=6, image_size=518, patch_size=14
    )
    tower = transformers.Dinov2Model(config).eval()
    tower.load_state_dict(dict(embedded._renamed(net.state_dict())))
    pixels = torch.randn(1, 3, 518, 518)
    with torch.no_grad():
        expected = net.forward_features(pixels)
        found = tower(pixels).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_embedded_model_trains_its_new_connector() -> None:
    if embedded.missing():
        pytest.skip("packages with weights are not installed: " + embedded.missing())
    policy = make(embedded.NAME, lora_rank=2, layers=1)
    parts = {id(p): vlm_network.part_of(n) for n, p in policy.vision.net.named_parameters()}
    assert {parts[id(p)] for p in policy.groups()["vlm"]} == {"language", "connector"}
    assert policy.vision.grid == (2, 64, 576)
    assert not policy.caches


def test_a_description_survives_as_text(llava: Path) -> None:
    about = vlm_inputs.Description.from_json(make(llava).config.backbone.architecture)
    assert vlm_inputs.Description.from_json(about.to_json()) == about
    assert json.loads(about.to_json())["image_tokens"] == 32
