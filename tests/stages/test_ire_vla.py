"""iRe-VLA on the stand-in suite: what learns when, what is kept, kills in either stage."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tests.helpers import composed, make_policy, play_groups
from vla_rl import cli
from vla_rl.demos.demo_set import DemoSet
from vla_rl.envs import point_reach
from vla_rl.learning.learner import Learner, LearnerConfig
from vla_rl.policies import vla
from vla_rl.policy import load_policy
from vla_rl.results.metrics import read_metrics
from vla_rl.rollout.collector import Collector, RolloutConfig, episode_keys
from vla_rl.rollout.local_collector import LocalCollector
from vla_rl.rollout.play import PlaySettings
from vla_rl.rollout.slots import SlotPool
from vla_rl.sft import DemoAnchor
from vla_rl.stages import ire_vla
from vla_rl.stages import train as stages_train
from vla_rl.stages.successes import Successes
from vla_rl.types import EpisodeSpec, Observation, RolloutBatch, Trajectory, seed_for
from vla_rl.world import read_world

TASKS = ("red", "green")
SHORT = (
    *("--train.iterations", "2", "--train.episodes-per-iteration", "48", "--sft.steps", "30"),
    *("--algo.critic-warmup", "0", "--rollout.workers", "1"),
)


def vla_rl(*words: str | Path) -> int:
    """Run a command in this process; returns the exit status."""
    return cli.main([str(word) for word in words])


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ire") / "demos"
    words = ("--suite", "point_reach", "--tasks", *TASKS, "--episodes", "30")
    assert vla_rl("record", *words, "--out", folder) == 0
    return folder


@pytest.fixture(scope="module")
def clone(demos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ire") / "sft"
    network = ("--network", "tiny", "--net.chunk", "2", "--net.head.std", "0.2")
    words = ("--demos", demos, *network, "--sft.steps", "300", "--sft.image-shift", "0")
    assert vla_rl("sft", *words, "--out", folder) == 0
    return folder / "policy"


@pytest.fixture(scope="module", params=list(ire_vla.METHODS))
def run(request, demos, clone, tmp_path_factory):
    """A short run of each method: its name and folder."""
    folder = tmp_path_factory.mktemp("ire") / request.param
    words = ("--policy", clone, "--demos", demos, "--tasks", *TASKS, "--method", request.param)
    assert vla_rl("ire-vla", *words, *SHORT, "--out", folder) == 0
    return request.param, folder


def weights(policy: Path, *groups: str) -> dict[str, np.ndarray]:
    """Tensors of some parameter groups of a saved policy."""
    loaded = load_policy(policy)
    wanted = {id(p) for group in groups for p in loaded.groups()[group]}
    return {n: p.detach().numpy() for n, p in loaded.named_parameters() if id(p) in wanted}


def equal(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    """Whether two sets of tensors agree in every bit."""
    assert left.keys() == right.keys()
    assert left
    return all((left[name] == right[name]).all() for name in left)


# ----------------------------------------------------------------------------- what learns when


def test_a_frozen_group_stays_bit_equal_and_the_others_learn(run, clone):
    name, folder = run
    method = ire_vla.METHODS[name]
    before, first = clone, folder / "1_red" / "rl" / "policy"
    after, second = folder / "1_red" / "policy", folder / "2_green" / "rl" / "policy"
    for start, end in ((before, first), (after, second)):  # stage 1
        assert equal(weights(start, "vlm"), weights(end, "vlm")) != method.vlm_in_rl
        assert not equal(weights(start, "head"), weights(end, "head"))
        assert not equal(weights(start, "critic"), weights(end, "critic"))
    for start, end in ((first, after), (second, folder / "2_green" / "policy")):  # stage 2
        assert equal(weights(start, "vlm"), weights(end, "vlm")) != method.vlm_in_supervised
        assert not equal(weights(start, "head"), weights(end, "head"))
        assert equal(weights(start, "critic"), weights(end, "critic"))
        kept = [load_policy(place).state_mean for place in (start, end)]
        assert torch.equal(*kept)  # proprioception is normalised as in stage 0
    assert equal(
        *(weights(p, "vlm", "head") for p in (folder / "2_green" / "policy", folder / "policy"))
    )


def test_the_policy_knows_old_and_new_tasks(run):
    _, folder = run
    assert set(read_world(folder / "policy").tasks) == set(TASKS)


def test_a_new_task_begins_with_a_fresh_critic_and_the_first_exploration():
    policy = make_policy()
    deviations = [p.detach().clone() for p in policy.deviations()]
    critic = [p.detach().clone() for p in policy.groups()["critic"]]
    others = [p.detach().clone() for p in (*policy.groups()["vlm"], *policy.groups()["head"])]
    with torch.no_grad():
        for parameter in (*policy.groups()["critic"], *policy.deviations()):
            parameter.add_(1.0)
    ire_vla.renew(policy, deviations, seed=3)
    first = [p.detach().clone() for p in policy.groups()["critic"]]
    assert not any(torch.equal(a, b) for a, b in zip(first, critic, strict=True) if a.any())
    ire_vla.renew(policy, deviations, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first, policy.groups()["critic"], strict=True))
    now = (*policy.groups()["vlm"], *policy.groups()["head"])
    assert all(torch.equal(a, b) for a, b in zip(others, now, strict=True))


# --------------------------------------------------------------------------- what is kept: D_RL


def test_only_solved_episodes_of_the_policy_are_kept(run):
    name, folder = run
    for number, task in enumerate(TASKS, start=1):
        kept = DemoSet.open(folder / f"{number}_{task}" / "successes")
        played = read_metrics(folder / f"{number}_{task}" / "rl" / "metrics.jsonl")
        solved = [round(48 * row["train/success"]) for row in played]
        expected = sum(min(4, count) for count in solved) if name != "replay" else 0
        assert len(kept) == expected
        for demonstration in kept.load():
            assert demonstration.success
            assert demonstration.source == "policy"
            assert demonstration.spec.task.id == task


def test_an_episode_is_kept_as_it_was_executed(tmp_path):
    policy, settings = make_policy(), point_reach.Settings()
    red = point_reach.tasks()[0]
    policy.remember([red.instruction])
    specs = [EpisodeSpec(red, seed_for("train", index)) for index in range(200)]
    with LocalCollector("point_reach", settings, RolloutConfig(workers=2), "cpu") as collector:
        keys = episode_keys(0, "here", count=len(specs))
        played = collector.collect(policy, specs, keys, PlaySettings()).trajectories
        solved = [t for t in played if t.success]
        assert 2 < len(solved) < len(played)
        demos = DemoSet.create(tmp_path / "own", "point_reach", {}, policy.spaces)
        keeper = Successes(demos, collector, per_iteration=0, seed=0)
        keeper.keep([[t] for t in played], iteration=0)
        few = DemoSet.create(tmp_path / "few", "point_reach", {}, policy.spaces)
        Successes(few, collector, per_iteration=2, seed=0).keep([[t] for t in played], iteration=0)
    kept = demos.load()
    assert [d.spec for d in kept] == [t.spec for t in solved]
    for demonstration, trajectory in zip(kept, solved, strict=True):
        assert (demonstration.actions == trajectory.chunk.actions[trajectory.executed]).all()
        assert len(demonstration) == trajectory.steps
        seen = demonstration.obs.state[:: policy.chunk]  # at decisions, and in between
        np.testing.assert_array_equal(seen, trajectory.obs.state)
    assert len(few) == 2
    state = {"episodes": 1, "retraced": 3, "unrepeated": 2}
    keeper.load_state_dict(state)
    assert keeper.state_dict() == state
    assert [d.spec for d in demos.load()] == [kept[0].spec]
    demos.append(kept[2:3])  # in the place of what was forgotten
    assert [d.spec for d in DemoSet.open(demos.path).load()] == [kept[0].spec, kept[2].spec]
    with pytest.raises(ValueError, match="holds 2 episodes, not 3"):
        demos.truncate(3)


def test_greedy_successes_carry_no_exploration_noise(demos, clone, tmp_path):
    out = tmp_path / "greedy"
    words = ("--policy", clone, "--demos", demos, "--tasks", "red", "--own-actions", "greedy")
    assert vla_rl("ire-vla", *words, "--greedy-episodes", "24", *SHORT, "--out", out) == 0
    kept = DemoSet.open(out / "1_red" / "successes").load()
    assert 0 < len(kept) <= 24
    policy = load_policy(out / "1_red" / "rl" / "policy")
    policy.freeze({"vlm"})  # as it acted
    for demonstration in kept[:4]:
        first = demonstration.obs[:1]
        wanted = policy.act(first, [demonstration.spec.task.instruction], None).actions[0]
        length = min(len(demonstration), policy.chunk)
        np.testing.assert_allclose(demonstration.actions[:length], wanted[:length], atol=1e-6)

    # They are counted among what stage 1 took.
    *_, before, last = read_metrics(out / "1_red" / "rl" / "metrics.jsonl")
    assert last["step"] == before["step"] + 1 == 3
    assert last["greedy/episodes"] == 24
    assert last["greedy/success"] == pytest.approx(len(kept) / 24)
    failed = 20 * (24 - len(kept))  # those went on to the horizon
    assert last["greedy/env_steps"] == sum(len(d) for d in kept) + failed
    for name, more in (("env_steps", last["greedy/env_steps"]), ("episodes", 24)):
        assert last[f"train/{name}"] == before[f"train/{name}"] + more


SOLVED = cast("Trajectory", None)  # nothing is asked of it


class Recorded:
    """A collector whose episodes do or do not succeed again, as given."""

    def __init__(self, again: list[bool]) -> None:
        self._again = iter(again)
        policy, settings = make_policy(), point_reach.Settings()
        self.spaces = policy.spaces
        self._solved = SlotPool("point_reach", settings).record(
            EpisodeSpec(point_reach.tasks()[0], seed_for("demo", 0))
        )

    def retrace(self, solved):
        return [replace(self._solved, success=next(self._again)) for _ in solved]


def kept_by(tmp_path, again: list[bool], at_once: int = 1) -> Successes:
    """A keeper that was given so many solved episodes."""
    collector = Recorded(again)
    demos = DemoSet.create(tmp_path / "own", "point_reach", {}, collector.spaces)
    keeper = Successes(demos, cast("Collector", collector), per_iteration=0, seed=0)
    for first in range(0, len(again), at_once):
        keeper.add([SOLVED] * len(again[first : first + at_once]))
    return keeper


@pytest.mark.filterwarnings("ignore:.* it is not kept")
def test_an_episode_that_does_not_repeat_is_dropped_and_counted(tmp_path):
    again = [False, True, True, True] + [True] * 16 + [False]
    with pytest.warns(UserWarning, match="it is not kept, as were 1 of 1 episodes so far"):
        keeper = kept_by(tmp_path, again)
    assert len(keeper.demos) == 19
    assert keeper.metrics() == {"keeper/kept": 19, "keeper/unrepeated": 2}
    state = keeper.state_dict()
    assert state == {"episodes": 19, "retraced": 21, "unrepeated": 2}
    again_not = cast("Collector", Recorded([False]))
    other = Successes(keeper.demos, again_not, per_iteration=0, seed=0)
    other.load_state_dict(state)
    with pytest.raises(ValueError, match="as were 3 of 22 episodes so far.*vla-rl check"):
        other.add([SOLVED])  # 3 of 22 are more than a tenth


@pytest.mark.filterwarnings("ignore:.* it is not kept")
@pytest.mark.parametrize("at_once", [1, 5])
def test_a_suite_that_repeats_nothing_ends_the_run(tmp_path, at_once):
    assert len(kept_by(tmp_path / "four", [False] * 4).demos) == 0
    with pytest.raises(ValueError, match="as were 5 of 5 .* does not repeat episodes"):
        kept_by(tmp_path / "five", [False] * 5, at_once)


def test_an_episode_that_does_not_even_end_again_is_unsolved():
    red = point_reach.tasks()[0]
    pool = SlotPool("point_reach", point_reach.Settings())
    solved = pool.record(EpisodeSpec(red, seed_for("demo", 0)))
    assert pool.retrace(solved.spec, solved.actions).success
    cut = pool.retrace(solved.spec, solved.actions[:-1])
    assert (len(cut), cut.success) == (len(solved) - 1, False)


# --------------------------------------------------------------------- an anchor in stage 1


def test_an_anchor_holds_on_to_all_demonstrations(demos, clone, tmp_path, monkeypatch):
    held = []

    def noted(policy, data, *rest):
        held.append((data.sentences, len(data)))
        return DemoAnchor(policy, data, *rest)

    monkeypatch.setattr(stages_train, "DemoAnchor", noted)
    words = ("--policy", clone, "--demos", demos, "--tasks", "blue", "--anchor.coef", "1")
    assert vla_rl("ire-vla", *words, *SHORT, "--out", tmp_path / "out") == 0
    recorded = DemoSet.open(demos).load()
    sentences = tuple(t.instruction for t in point_reach.tasks() if t.id in TASKS)
    assert held == [(sentences, sum(map(len, recorded)))]


def test_an_anchor_on_nothing_is_refused_before_any_work(clone, tmp_path, capsys):
    empty = DemoSet.create(
        tmp_path / "none", "point_reach", {}, point_reach.spaces(point_reach.Settings())
    )
    for command, out in (("ire-vla", "a"), ("train", "b")):
        words = ("--policy", clone, "--demos", empty.path, "--tasks", "red", "--anchor.coef", "1")
        assert vla_rl(command, *words, "--out", tmp_path / out) == 2
        assert "holds none: record some, or set --anchor.coef 0" in capsys.readouterr().err
        assert not (tmp_path / out).exists()


# ------------------------------------------------------------------------- kills in either stage


@pytest.mark.parametrize(
    "reached",
    ["1_red/rl/checkpoints/step_000002", "2_green/sft/checkpoints/step_000010"],
    ids=["stage 1", "stage 2"],
)
def test_a_killed_run_goes_on_as_if_nothing_had_been(demos, clone, tmp_path, reached):
    words = [
        *("ire-vla", "--policy", clone, "--demos", demos, "--tasks", *TASKS),
        *("--train.iterations", "4", "--train.checkpoint-every", "1"),
        *("--train.eval-every", "2", "--train.eval-episodes", "5"),
        *("--train.episodes-per-iteration", "48", "--sft.steps", "300"),
        *("--sft.checkpoint-every", "10", "--rollout.workers", "1"),
    ]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert vla_rl(*words, "--out", whole) == 0
    command = [sys.executable, "-m", "vla_rl.cli", *map(str, words), "--out", str(cut)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (cut / reached).exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert (cut / reached).parent.exists()
    assert not (cut / Path(reached).parts[0] / "policy").exists(), "it was killed too late"
    assert vla_rl("ire-vla", "--out", cut, "--resume") == 0
    left = load_file(whole / "policy" / "model.safetensors")
    right = load_file(cut / "policy" / "model.safetensors")
    assert all((left[name] == right[name]).all() for name in left)
    for place in ("1_red", "2_green"):
        best = [folder / place / "rl" / "best" for folder in (whole, cut)]
        assert equal(*(weights(folder, "head") for folder in best))
        assert len({(folder / "validation.json").read_text() for folder in best}) == 1
        kept = [DemoSet.open(folder / place / "successes").load() for folder in (whole, cut)]
        for one, other in zip(*kept, strict=True):
            assert one.spec == other.spec
            assert (one.actions == other.actions).all()
            assert (one.obs.images == other.obs.images).all()


@pytest.mark.parametrize(
    "algorithm", [("gspo",), ("gfpo", "--algo.adaptive", "--algo.group-size", "16")]
)
def test_the_second_task_knows_nothing_of_the_first_ones_algorithm(
    demos, clone, tmp_path, algorithm
):
    """A measured clip range, or how hard starts were, belongs to one task: resumed or not."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    words = ("--policy", clone, "--demos", demos, "--tasks", *TASKS, "--algorithm", *algorithm)
    short = ("--train.iterations", "2", "--train.episodes-per-iteration", "96", "--sft.steps", "20")
    assert vla_rl("ire-vla", *words, *short, "--rollout.workers", "1", "--out", whole) == 0
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "2_green")
    shutil.rmtree(cut / "policy")
    assert vla_rl("ire-vla", "--out", cut, "--resume") == 0
    left, right = (load_file(run / "policy" / "model.safetensors") for run in (whole, cut))
    assert all((left[name] == right[name]).all() for name in left)


# --------------------------------------------------------------------- features of a frozen part


def test_gradients_from_kept_features_are_those_of_looking_again():
    torch.manual_seed(0)
    settings = composed(vla.Config, text="hash", hidden=(32,), chunk=3, std=0.4)
    policy = vla.Policy(settings, point_reach.spaces(point_reach.Settings()))
    policy.remember([task.instruction for task in point_reach.tasks()])
    policy.freeze({"vlm"})
    batch = RolloutBatch.pack(play_groups(policy, groups=6, size=1, keep_images=True))
    rows = np.argwhere(batch.valid)

    def gradients(frozen: set[str]) -> dict[str, torch.Tensor]:
        learner = Learner(policy, LearnerConfig(), ("head", "critic"))
        policy.frozen = frozenset(frozen)  # without "vlm" it looks again; that takes no gradient
        scores = learner.evaluate(batch, rows)
        (scores.logprob.sum() + scores.value.sum()).backward()
        found = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
        policy.zero_grad(set_to_none=True)
        return found

    kept, fresh = gradients({"vlm"}), gradients(set())
    assert kept.keys() == fresh.keys()
    assert not any(name.startswith("vision") for name in kept)
    for name in kept:
        error = (kept[name] - fresh[name]).abs().max()
        assert error <= 5e-3 * fresh[name].abs().max(), name  # kept in float16
    policy.freeze({"vlm"})
    obs = Observation(batch.obs.images, batch.obs.state)[rows[:, 0], rows[:, 1]]
    again = policy.features(obs, [batch.instruction[row] for row in rows[:, 0]])
    stored = batch.chunk.features[rows[:, 0], rows[:, 1]]
    np.testing.assert_allclose(again.astype(np.float32), stored.astype(np.float32), atol=2e-3)


# -------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "ire"), "unknown method 'ire'; did you mean 'ire_vla'"),
        (("--learner.train-vlm", "True"), "does not fit method 'ire_vla'"),
        (("--successes-per-iteration", "-1"), "must not be negative, got -1"),
        (("--greedy-episodes", "0"), "must be at least 1, got 0"),
        (("--tasks", "pink"), "unknown task 'pink'"),
        (("--demos", "/no/where"), "there is no demo set at /no/where"),
        (("--rewards", "spares"), "'spares'"),
    ],
)
def test_bad_input_is_refused_before_any_work(demos, clone, tmp_path, capsys, options, message):
    given = {"--policy": clone, "--demos": demos, "--tasks": "red", options[0]: options[1]}
    words = [word for pair in given.items() for word in pair]
    assert vla_rl("ire-vla", *words, "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
