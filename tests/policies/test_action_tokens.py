"""Actions as tokens of a vision-language model: the mapping, every family, and that it learns."""

from __future__ import annotations

import copy
import math
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
import torch.nn.functional as F
import transformers

from tests.helpers import composed, fresh, packed
from tests.policies import vlm_families
from tests.policies.test_vlm_families import MARKS
from vla_rl import plugins
from vla_rl.action_head import DENSITIES
from vla_rl.envs import point_reach
from vla_rl.learning.learner import Learner, LearnerConfig
from vla_rl.policies import action_tokens
from vla_rl.policies._heads import tokens as token_head
from vla_rl.policies._heads.token_config import Config
from vla_rl.policy import Exactness, load_policy
from vla_rl.rollout.policy_worker import PolicyRecipe
from vla_rl.types import ActionChunk, Observation, Spaces

SPACES = Spaces(views=("front", "wrist"), image_size=64, state_dim=3, action_dim=2)
SENTENCES = ("open the drawer", "close it")
CHUNK, UNITS = 3, 6
MUTE = ("blip_2", "florence2")
SPEAKING = [
    pytest.param(name, marks=MARKS.get(name, []))
    for name in vlm_families.FAMILIES
    if name not in MUTE
]
LLAVA_IDS = (258, 257, 256)  # of its 260 tokens, 0, 1, 2 and 259 are special

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


def config_of(folder: Path, **settings: Any) -> Config:
    base = {"chunk": CHUNK, "text": "hash", "precision": "float32", "width": 8, "hidden": (16,)}
    made: Config = composed(Config, **{**base, "backbone": f"vlm:{folder}", **settings})
    return made


def make(folder: Path, spaces: Spaces = SPACES, **settings: Any) -> action_tokens.Policy:
    """A policy whose adapters and critic are not those of the start."""
    torch.manual_seed(0)
    policy = action_tokens.Policy(config_of(folder, **settings), spaces)
    policy.remember(SENTENCES)
    with torch.no_grad():
        for parameter in (*policy.groups()["vlm"], *policy.groups()["critic"]):
            parameter.add_(0.03 * torch.randn_like(parameter))
    return policy


def observe(rows: int, seed: int = 0) -> Observation:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (rows, 2, 64, 64, 3), dtype=np.uint8)
    return Observation(images, generator.normal(size=(rows, 3)).astype(np.float32))


def blindfold(obs: Observation) -> Observation:
    return replace(obs, images=np.zeros((len(obs.state), 0, 64, 64, 3), np.uint8))


def said(rows: int) -> list[str]:
    return [SENTENCES[row % 2] for row in range(rows)]


def keys(rows: int) -> np.ndarray:
    return np.stack([np.arange(rows) + 7, np.arange(rows)], axis=1)


def act(policy: Any, rows: int = 4, greedy: bool = False) -> ActionChunk:
    found: ActionChunk = policy.act(observe(rows), said(rows), None if greedy else keys(rows))
    return found


def same(left: ActionChunk, right: ActionChunk) -> bool:
    return all(np.array_equal(value, vars(right)[name]) for name, value in vars(left).items())


@contextmanager
def passes(policy: action_tokens.Policy) -> Iterator[list[tuple[int, int]]]:
    """Rows and tokens of every pass of the model."""
    found: list[tuple[int, int]] = []
    handle = policy.head.speaker.net.base_model.register_forward_pre_hook(
        lambda _, __, given: found.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    yield found
    handle.remove()


def law(policy: action_tokens.Policy, chunk: ActionChunk, rows: int = 4) -> torch.Tensor:
    """Log-probabilities of all words, ``[rows, K, bins]``, teacher-forced."""
    obs, text = observe(rows), policy._words(said(rows))
    with torch.no_grad():
        seen = torch.tensor(policy.features(obs, said(rows))).float()
        context, prompt = policy.context(seen, text, policy._proprioception(obs))
        kept, known = policy.head._split(context)
        states = policy.head.speaker.hear(kept, prompt, known, torch.tensor(chunk.raw).long())
        found: torch.Tensor = policy.head._law(states)
    return found


# ---------------------------------------------------------------------------------- the mapping


def test_four_intervals_by_hand():
    values = torch.tensor([-7.0, -1.0, -0.51, -0.5, -0.01, 0.0, 0.49, 0.5, 1.0, 7.0])
    index = token_head.discretise(values, 4)
    assert index.tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3]
    assert token_head.centres(torch.arange(4), 4).tolist() == [-0.75, -0.25, 0.25, 0.75]


@pytest.mark.parametrize("bins", [2, 255, 256])
def test_an_interval_is_that_of_its_centre_and_no_wider_than_2_over_bins(bins: int):
    index = torch.arange(bins)
    centres = token_head.centres(index, bins)
    assert torch.equal(token_head.discretise(centres, bins), index)
    values = torch.linspace(-1, 1, 1001)
    back = token_head.centres(token_head.discretise(values, bins), bins)
    assert float((back - values).abs().max()) <= 1 / bins + 1e-6


def test_255_intervals_are_those_between_256_edges():
    """As in OpenVLA, whose 256 "bins" are edges."""
    edges = np.linspace(-1, 1, 256)
    centres = token_head.centres(torch.arange(255), 255)
    np.testing.assert_allclose(centres, (edges[:-1] + edges[1:]) / 2, atol=1e-7)
    values = np.random.default_rng(0).uniform(-1, 1, 1000)
    index = token_head.discretise(torch.tensor(values), 255)
    assert np.array_equal(index + 1, np.digitize(values, edges))


def test_the_last_ids_that_are_no_special_tokens_are_used(llava: Path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(llava)
    assert tokenizer.convert_tokens_to_ids("<image>") == 259
    policy = make(llava, bins=3)
    assert policy.config.action_ids == LLAVA_IDS
    assert Config(bins=3).action_ids == ()  # nothing is fetched for settings
    with pytest.raises(ValueError, match=r"bins 300 is outside the allowed range 2, ..., 256"):
        make(llava, bins=300)


def test_the_rows_are_at_first_those_of_the_language_model(llava: Path):
    policy = action_tokens.Policy(config_of(llava, bins=3), SPACES)
    model = transformers.AutoModelForImageTextToText.from_pretrained(llava)
    assert torch.equal(policy.head.speaker.rows.weight, model.lm_head.weight[list(LLAVA_IDS)])
    assert policy.head.speaker.rows.weight.requires_grad


def test_a_word_is_drawn_where_the_distribution_passes_the_noise():
    """0.2, 0.3 and 0.5: Phi(-1) = 0.159, Phi(-0.7) = 0.242, Phi(-0.1) = 0.460, Phi(0.1) = 0.54."""
    noise = torch.tensor([-40.0, -1.0, -0.7, -0.1, 0.1, 40.0])
    logprob = torch.tensor([[0.2, 0.3, 0.5]]).log().expand(6, 3)
    assert token_head.draw(logprob, noise).tolist() == [0, 0, 1, 1, 2, 2]


def test_what_is_drawn_follows_its_law():
    logprob = F.log_softmax(torch.randn(8, generator=torch.Generator().manual_seed(0)), dim=0)
    noise = torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    words = token_head.draw(logprob.expand(20_000, 8), noise)
    shares = torch.bincount(words, minlength=8) / 20_000
    np.testing.assert_allclose(shares, logprob.exp(), atol=4 * math.sqrt(0.25 / 20_000))


# -------------------------------------------------------------------------------- every family


@pytest.mark.parametrize("family", SPEAKING)
@pytest.mark.parametrize("frozen", [(), ("vlm",)], ids=["whole", "frozen"])
def test_evaluate_repeats_acting(folder: Folder, family: str, frozen: tuple[str, ...]):
    policy = make(folder(family))
    policy.freeze(frozen)
    for greedy in (False, True):
        chunk = act(policy, greedy=greedy)
        scores = policy.evaluate(blindfold(observe(4)), said(4), chunk.raw, chunk.features)
        np.testing.assert_allclose(scores.logprob.detach(), chunk.logprob, atol=1e-4)
        np.testing.assert_allclose(scores.value.detach(), chunk.value, atol=1e-5)
        # The law does depend on what was said before, so the comparison means something.
        other = policy.evaluate(
            blindfold(observe(4)), said(4), (chunk.raw + 1) % 256, chunk.features
        )
        assert float((other.entropy - scores.entropy)[:, 1:].detach().abs().min()) > 1e-4


@pytest.mark.parametrize("family", SPEAKING)
def test_greedy_words_are_what_transformers_generates(folder: Folder, family: str):
    """Its own generation, with masks and positions of its own, restricted to the action tokens."""
    policy = action_tokens.Policy(config_of(folder(family), state_tokens=False), SPACES)
    policy.remember(SENTENCES)
    speaker, ids = policy.head.speaker, policy.config.action_ids
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder(family))
    obs = observe(2)
    expected = []
    for row, sentence in enumerate(SENTENCES):
        text = speaker._text(policy._words([sentence])[:, : speaker.prompt])
        text.pop("labels", None)
        pictures = speaker.inputs(torch.tensor(obs.images[row : row + 1]))
        out = model.generate(
            **text,
            **{name: value for name, value in pictures.items() if name in speaker._takes},
            max_new_tokens=UNITS,
            min_new_tokens=UNITS,
            do_sample=False,
            prefix_allowed_tokens_fn=lambda *_: list(ids),
        )
        expected.append([ids.index(token) for token in out[0, -UNITS:].tolist()])
    found = policy.act(obs, SENTENCES, None)
    assert found.raw.tolist() == expected
    assert found.actions.dtype == np.float32
    np.testing.assert_allclose(
        found.actions.reshape(2, UNITS), (2 * np.array(expected) + 1) / 256 - 1, atol=1e-6
    )


@pytest.mark.parametrize("family", MUTE)
def test_models_that_cannot_go_on_after_a_prompt_are_refused(folder: Folder, family: str):
    with pytest.raises(ValueError, match=r"cannot generate actions: .* decoder-only model"):
        make(folder(family))


# --------------------------------------------------------------------------------------- acting


def test_one_pass_for_the_prompt_and_one_for_each_word_but_the_last(llava: Path):
    policy = make(llava)
    with passes(policy) as alike:
        chunk = policy.act(observe(4), [SENTENCES[0]] * 4, keys(4))
    prompt = alike[0][1]
    assert alike == [(4, prompt)] + [(4, 1)] * (UNITS - 1)
    with passes(policy) as scored:
        policy.evaluate(observe(4), [SENTENCES[0]] * 4, chunk.raw, chunk.features)
    assert scored == [(4, prompt + UNITS - 1)]
    with passes(policy) as mixed:  # two lengths
        chunk = act(policy)
        policy.evaluate(observe(4), said(4), chunk.raw, chunk.features)
    shorter = prompt - len(SENTENCES[0]) + len(SENTENCES[1])
    assert [n for n in mixed if n[1] > 1] == [
        (2, shorter),
        (2, prompt),
        (2, shorter + UNITS - 1),
        (2, prompt + UNITS - 1),
    ]
    assert len(mixed) == 2 * UNITS + 2


def test_greedy_acting_takes_the_likeliest_words_and_draws_nothing(llava: Path):
    policy = make(llava)
    first = act(policy, greedy=True)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert same(first, act(policy, greedy=True))
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(first.raw, law(policy, first).argmax(2))
    assert not np.array_equal(first.raw, act(policy).raw)


def test_a_row_depends_on_its_own_key_and_not_on_its_batch(llava: Path):
    policy, obs = make(llava), observe(4)
    whole = act(policy)
    alone = policy.act(obs[2:3], said(4)[2:3], keys(4)[2:3])
    assert np.array_equal(alone.raw[0], whole.raw[2])
    np.testing.assert_allclose(alone.logprob[0], whole.logprob[2], atol=1e-4)
    other = policy.act(obs, said(4), keys(4) + 1)
    assert (other.raw != whole.raw).any(axis=1).all()


def test_every_word_has_noise_of_its_own(llava: Path):
    """One distribution for every word (no weight of the head): words tell nothing of each other."""
    policy = make(llava)
    torch.nn.init.zeros_(policy.head.speaker.rows.weight)
    order = np.stack([np.repeat(np.arange(100), 2), np.tile([0, 1], 100)], axis=1)
    obs = observe(1)[[0] * 200]
    actions = policy.act(obs, [SENTENCES[0]] * 200, order).actions.reshape(100, 2 * UNITS)
    # Two independent numbers of [-1, 1] are 2/3 apart on average.
    assert float(np.abs(np.diff(actions, axis=1)).mean()) == pytest.approx(2 / 3, abs=0.03)
    correlation = np.corrcoef(actions.T) - np.eye(2 * UNITS)
    assert np.abs(correlation).max() < 0.4  # 4 standard errors
    assert abs(correlation.sum()) / (2 * UNITS * (2 * UNITS - 1)) < 0.03


def test_its_log_probabilities_are_exact_whatever_is_asked_for(llava: Path):
    policy = make(llava)
    chunk = act(policy)
    for density in DENSITIES:
        policy.use_density(density)
        assert policy.density == density
        assert policy.exactness() == Exactness(True, True)
        assert same(chunk, act(policy))
    assert policy.deviations() == []
    assert policy.deviation() is None
    with pytest.raises(ValueError, match="unknown density 'joint'"):
        policy.use_density("joint")


def test_temperature_divides_the_scores(llava: Path):
    cold, warm = make(llava), make(llava, temperature=2.0)
    chunk = act(cold)
    expected = F.log_softmax(law(cold, chunk) / 2, dim=2)
    torch.testing.assert_close(law(warm, chunk), expected, atol=1e-5, rtol=0)
    scores = warm.evaluate(observe(4), said(4), chunk.raw, chunk.features)
    words = torch.tensor(chunk.raw).long()[..., None]
    torch.testing.assert_close(
        scores.logprob.detach(), expected.gather(2, words)[..., 0], atol=1e-5, rtol=0
    )
    entropy = torch.distributions.Categorical(logits=expected).entropy()
    torch.testing.assert_close(scores.entropy.detach(), entropy, atol=1e-5, rtol=0)
    hot = act(warm)
    again = warm.evaluate(observe(4), said(4), hot.raw, hot.features)
    np.testing.assert_allclose(again.logprob.detach(), hot.logprob, atol=1e-4)


def test_proprioception_is_read_as_words(llava: Path):
    policy = make(llava, spaces := SPACES, bins=10)
    policy.fit_statistics(np.array([[0, 0, 0], [2, 2, 2]], np.float32))  # mean 1, deviation 1
    obs = Observation(observe(1).images, np.array([[1.0, 3.5, -99.0]], np.float32))
    context = torch.cat([torch.zeros(1, 4), policy._proprioception(obs)], dim=1)
    kept, known = policy.head._split(context)
    assert kept.shape == (1, 4)
    assert known.tolist() == [[5, 7, 0]]  # 0, 2.5 and -5 deviations, of [-5, 5] in ten parts
    deaf = make(llava, spaces, state_tokens=False)
    for reads, found in ((True, make(llava)), (False, deaf)):
        moved = replace(observe(4), state=observe(4).state + 1)
        apart = found.act(moved, said(4), None).logprob - act(found, greedy=True).logprob
        assert bool(np.abs(apart).max() > 1e-4) == reads


# ------------------------------------------------------------------------------------- training


def gradients(policy: action_tokens.Policy) -> set[str]:
    return {
        name
        for name, members in policy.groups().items()
        if any(bool(p.grad.any()) for p in members if p.grad is not None)
    }


@pytest.mark.parametrize("rank", [0, 2], ids=["weights", "lora"])
@pytest.mark.parametrize("frozen", [(), ("vlm",), ("head",), ("vlm", "critic"), ("vlm", "head")])
def test_only_trained_groups_get_a_gradient(llava: Path, rank: int, frozen: tuple[str, ...]):
    policy = make(llava, lora_rank=rank)
    groups = policy.groups()
    listed = [id(p) for members in groups.values() for p in members]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in policy.parameters() if p.requires_grad}
    policy.freeze(frozen)
    chunk = act(policy)
    scores = policy.evaluate(blindfold(observe(4)), said(4), chunk.raw, chunk.features)
    (scores.logprob.sum() + scores.value.square().sum()).backward()
    assert gradients(policy) == set(groups) - set(frozen)
    assert all(p.grad is None for name in frozen for p in groups[name])


def test_the_critic_moves_nothing_else(llava: Path):
    policy = make(llava, trains=("language", "connector", "vision"))
    chunk = act(policy)
    policy.evaluate(observe(4), said(4), chunk.raw, chunk.features).value.sum().backward()
    assert gradients(policy) == {"critic"}


def test_images_are_looked_at_once_while_the_vision_tower_is_frozen(llava: Path):
    policy = make(llava)
    tower = policy.head.speaker.net.base_model.vision_tower
    chunk = act(policy)
    assert chunk.features.shape == (4, 2 * 16 * 32)  # views, tokens, channels
    assert np.array_equal(chunk.features, policy.features(observe(4), said(4)))
    with mock.patch.object(tower, "forward", side_effect=AssertionError):
        policy.evaluate(blindfold(observe(4)), said(4), chunk.raw, chunk.features)
    whole = make(llava, trains=("language", "connector", "vision"))
    assert act(whole).features.shape == (4, 0)
    chunk = act(whole)
    scores = whole.evaluate(observe(4), said(4), chunk.raw, chunk.features)
    np.testing.assert_allclose(scores.logprob.detach(), chunk.logprob, atol=1e-4)
    scores.logprob.sum().backward()
    seen = [p.grad for n, p in whole.named_parameters() if "patch_embedding" in n]
    assert seen
    assert all(gradient is not None and bool(gradient.any()) for gradient in seen)


def test_imitation_is_the_mean_cross_entropy_of_unmasked_words(llava: Path):
    policy = make(llava, temperature=3.0)
    chunk = act(policy)
    mask = np.ones((4, CHUNK), bool)
    mask[1, 1:] = False
    actions = chunk.actions.copy()
    actions[1, 1:] = 1e6
    scores = F.log_softmax(3.0 * law(policy, chunk), dim=2)
    each = scores.gather(2, torch.tensor(chunk.raw).long()[..., None])[..., 0]
    expected = -each[torch.tensor(mask).repeat_interleave(2, dim=1)].mean()
    loss = policy.imitation_loss(observe(4), said(4), actions, mask)
    assert float(loss.detach()) == pytest.approx(float(expected), abs=1e-4)
    from_features = policy.imitation_loss(
        blindfold(observe(4)), said(4), actions, mask, chunk.features
    )
    assert torch.equal(loss, from_features)


def test_computing_activations_again_changes_nothing(llava: Path):
    plain, spare = (make(llava, gradient_checkpointing=again) for again in (False, True))
    with passes(spare) as found:
        chunk = act(spare)
    assert same(chunk, act(plain))
    assert sum(tokens == 1 for _, tokens in found) == 2 * (UNITS - 1)  # with a cache
    found_gradients = []
    for policy in (plain, spare):
        policy.train()
        scores = policy.evaluate(blindfold(observe(4)), said(4), chunk.raw, chunk.features)
        scores.logprob.sum().backward()
        found_gradients.append([p.grad for p in policy.groups()["vlm"] if p.grad is not None])
    assert len(found_gradients[0]) == len(found_gradients[1]) > 20
    for left, right in zip(*found_gradients, strict=True):
        torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rank", [0, 2], ids=["weights", "lora"])
def test_bfloat16(llava: Path, rank: int):
    policy = make(llava, precision="bfloat16", lora_rank=rank)
    chunk = act(policy)
    scores = policy.evaluate(observe(4), said(4), chunk.raw, chunk.features)
    assert scores.logprob.dtype == torch.float32
    np.testing.assert_allclose(scores.logprob.detach(), chunk.logprob, atol=1e-4)
    exact = law(make(llava, lora_rank=rank), chunk)
    words = torch.tensor(chunk.raw).long()[..., None]
    np.testing.assert_allclose(exact.gather(2, words)[..., 0], chunk.logprob, atol=0.25)


def test_cloning_learns_what_depends_on_image_and_instruction(llava: Path):
    """The action is the brightness for one sentence, its opposite for the other."""
    spaces = Spaces(views=("front",), image_size=32, state_dim=0, action_dim=1)
    generator = np.random.default_rng(0)
    level = generator.choice([40, 215], 64)
    images = generator.normal(level[:, None, None, None, None], 8, (64, 1, 32, 32, 3))
    obs = Observation(images.clip(0, 255).astype(np.uint8), np.zeros((64, 0), np.float32))
    sign = np.where(np.arange(64) % 2 == 0, 1, -1)
    actions = (0.8 * sign * np.sign(level - 128.0)).astype(np.float32)
    actions = np.repeat(actions[:, None, None], 2, axis=1)
    policy = make(llava, spaces, bins=16, chunk=2)
    learner = Learner(policy, LearnerConfig(lr=3e-3, vlm_lr=3e-3), trains=("vlm", "head"))
    features = policy.features(obs, said(64))
    losses = []
    for _ in range(60):
        rows = generator.integers(0, 48, 16)
        loss = policy.imitation_loss(
            obs[rows],
            [SENTENCES[row % 2] for row in rows],
            actions[rows],
            np.ones((16, 2), bool),
            features[rows],
        )
        losses.append(float(loss.detach()))
        learner.accumulate(loss)
        learner.step()
    assert losses[-1] < 0.1 * losses[0]
    unseen = policy.act(obs[48:], said(16), None).actions
    # Chance is one in two once the two actions are known.
    assert (np.sign(unseen) == np.sign(actions[48:])).mean() > 0.9


@pytest.mark.parametrize("name", ["grpo", "ppo", "loop"])
def test_algorithms_update_it(llava: Path, name: str):
    algorithm = plugins.load("algorithms", name).Algorithm(group_size=4)
    policy = make(llava, point_reach.spaces(point_reach.Settings()), lora_rank=2)
    policy.remember([task.instruction for task in point_reach.tasks()])
    learner = Learner(policy, LearnerConfig(lr=1e-3), ("vlm", *algorithm.trains))
    if algorithm.uses_reference:
        learner.reference = copy.deepcopy(policy).requires_grad_(False)
    before = [p.detach().clone() for p in policy.parameters()]
    log = algorithm.update(
        learner, packed(policy, 3, 4), fresh(algorithm), np.random.default_rng(0)
    )
    assert all(np.isfinite(value) for value in log.values())
    assert any(not torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


# --------------------------------------------------------------------------- copies and the disk


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_copies_act_alike(folder: Folder, family: str):
    policy = make(folder(family), lora_rank=2)
    chunk = act(policy)  # Qwen's positions leave something behind
    assert same(chunk, act(copy.deepcopy(policy)))


def test_a_saved_policy_acts_alike_and_a_worker_needs_no_tokenizer(llava: Path, tmp_path: Path):
    policy = make(llava, lora_rank=2)
    policy.fit_statistics(observe(20).state)
    policy.save_pretrained(tmp_path)
    assert (tmp_path / "processor" / "tokenizer.json").exists()
    chunk, offline = act(policy), OSError("no hub")
    model = transformers.AutoModelForImageTextToText
    with mock.patch.object(model, "from_pretrained", side_effect=offline):
        loaded = load_policy(tmp_path)  # reads its own copy of the processor, for new sentences
        with mock.patch.object(transformers.AutoProcessor, "from_pretrained", side_effect=offline):
            built = PolicyRecipe.of(policy).build()
    assert loaded.config == policy.config
    assert same(chunk, act(loaded))
    built.load_state_dict(policy.state_dict())
    built.text_memory = policy.text_memory
    assert same(chunk, act(built))


# -------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bins": 4, "action_ids": (7, 6)}, "bins 4 do not fit the 2 action_ids"),
        ({"bins": 1}, r"bins 1 is outside the allowed range 2, 3"),
        ({"temperature": 0.0}, r"temperature 0.0 is outside the allowed range \(0, inf\)"),
        ({"chunk": 0}, "chunk 0 is outside"),
        ({"hidden": (0,)}, r"hidden \(0,\) has a width outside"),
        ({"text": "minlm"}, "unknown text encoder 'minlm'; did you mean 'minilm'"),
        ({"text_width": 0}, "text_width 0 is outside"),
        ({"token_learner": "attentive"}, "unknown token learner .* did you mean 'attention'"),
        ({"lora_rank": -1}, "lora_rank -1 is outside"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        composed(Config, **settings)


def test_a_moved_policy_reads_new_instructions(llava: Path, tmp_path: Path):
    source = tmp_path / "model"
    shutil.copytree(llava, source)
    policy = make(source)
    policy.save_pretrained(tmp_path / "saved")
    shutil.rmtree(source)
    loaded = load_policy(tmp_path / "saved")
    loaded.save_pretrained(tmp_path / "again")  # without the model's folder
    for twin in (loaded, load_policy(tmp_path / "again")):
        twin.remember(["fetch the cup"])
        policy.remember(["fetch the cup"])
        found = twin.text_memory["fetch the cup"]
        assert np.array_equal(found, policy.text_memory["fetch the cup"])


def test_a_suite_without_cameras_is_refused(llava: Path):
    with pytest.raises(ValueError, match="needs images, but this suite has no cameras"):
        make(llava, replace(SPACES, views=()))
