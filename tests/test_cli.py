"""The commands as a user runs them, on the stand-in suite: whole stages, resume, bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from vla_rl import cli
from vla_rl.envs import point_reach
from vla_rl.policies import tiny
from vla_rl.policy import load_policy
from vla_rl.results.evaluation import EvalResult
from vla_rl.results.intervals import paired_difference
from vla_rl.results.metrics import read_metrics
from vla_rl.types import seed_for
from vla_rl.world import read_world

# Only one of the tasks: without the need for language a small net clones it in seconds.
RECORD = ["record", "--suite", "point_reach", "--tasks", "red", "--episodes", "100"]
CLONE = [
    *("--network", "tiny", "--net.chunk", "2", "--net.head.std", "0.2", "--net.features", "256"),
    *("--net.hidden", "256", "256", "--sft.steps", "600", "--sft.image-shift", "0"),
]


def vla_rl(*words: str | Path) -> int:
    """Run a command in this process; returns the exit status."""
    return cli.main([str(word) for word in words])


def command(*words: str | Path) -> list[str]:
    """The same for a process of its own."""
    return [sys.executable, "-m", "vla_rl.cli", *map(str, words)]


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "demos"
    assert vla_rl(*RECORD, "--out", folder) == 0
    return folder


@pytest.fixture(scope="module")
def clone(demos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "sft"
    assert vla_rl("sft", "--demos", demos, "--out", folder, *CLONE) == 0
    return folder / "policy"


def outcomes(policy: Path) -> list[bool]:
    """Success on 600 starts that were never trained on."""
    out = policy.parent / "result.json"
    options = ["--eval.episodes-per-task", "600", "--out", str(out)]
    assert vla_rl("eval", "--policy", policy, *options) == 0
    return list(EvalResult.from_json(out.read_text()).tasks["red"].success)


def test_rl_improves_the_clone(clone, tmp_path):
    out = tmp_path / "rl"
    options = ["--train.iterations", "80", "--learner.lr", "3e-4"]
    assert vla_rl("train", "--policy", clone, "--out", out, *options) == 0
    change = paired_difference(outcomes(clone), outcomes(out / "policy"))
    assert change.low > 0, change
    rows = read_metrics(out / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 81))
    for part in ("physics", "render", "transfer", "policy", "update", "total"):
        assert all(row[f"time/{part}"] >= 0 for row in rows)


def test_ten_iterations_equal_five_a_kill_and_five_more(clone, tmp_path):
    options = [
        *("--policy", clone, "--train.iterations", "10", "--train.checkpoint-every", "5"),
        *("--train.episodes-per-iteration", "192", "--rollout.workers", "2"),
    ]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert vla_rl("train", "--out", whole, *options) == 0
    running = subprocess.Popen(command("train", "--out", cut, *options), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (cut / "checkpoints" / "step_000005").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert not (cut / "policy").exists(), "it was killed too late"
    resumed = subprocess.run(
        command("train", "--out", cut, "--resume"), check=True, capture_output=True, text=True
    )
    assert "resuming after iteration 5" in resumed.stdout
    left = load_file(whole / "policy" / "model.safetensors")
    right = load_file(cut / "policy" / "model.safetensors")
    assert all((left[name] == right[name]).all() for name in left)
    same = ("step", "train/success", "actor/ppo_kl", "actor/grad_norm", "train/env_steps")
    for a, b in zip(
        read_metrics(whole / "metrics.jsonl"), read_metrics(cut / "metrics.jsonl"), strict=True
    ):
        assert {key: a.get(key) for key in same} == {key: b.get(key) for key in same}


def test_a_killed_cloning_goes_on_where_it_was_saved(demos, tmp_path):
    options = ["--demos", demos, *CLONE, "--sft.checkpoint-every", "50"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert vla_rl("sft", "--out", whole, *options) == 0
    running = subprocess.Popen(command("sft", "--out", cut, *options), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (cut / "checkpoints" / "step_000100").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert not (cut / "policy").exists(), "it was killed too late"
    assert vla_rl("sft", "--out", cut, "--resume") == 0
    left = load_file(whole / "policy" / "model.safetensors")
    right = load_file(cut / "policy" / "model.safetensors")
    assert all((left[name] == right[name]).all() for name in left)
    losses = [
        [row["sft/loss"] for row in read_metrics(run / "metrics.jsonl")] for run in (whole, cut)
    ]
    assert losses[0] == losses[1]


def anybody_in(group: int) -> bool:
    """Whether a process of the group still lives."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_ctrl_c_saves_and_leaves_nothing_running(clone, tmp_path):
    out = tmp_path / "run"
    running = subprocess.Popen(
        command("train", "--policy", clone, "--out", out, "--train.iterations", "100000"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (out / "metrics.jsonl").exists() or len(read_metrics(out / "metrics.jsonl")) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to every process
    _, errors = running.communicate(timeout=60)
    assert running.returncode == cli.INTERRUPTED, errors
    assert "interrupted" in errors
    last = read_metrics(out / "metrics.jsonl")[-1]["step"]
    assert (out / "checkpoints" / f"step_{last:06d}").exists()
    deadline = time.monotonic() + 20
    while anybody_in(running.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not anybody_in(running.pid)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(clone, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--policy", clone, "--out", out, "--train.checkpoint-every", "2"]
    assert vla_rl("train", *options, "--train.iterations", "4") == 0
    tensors = out / "checkpoints" / "step_000004" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:100])
    with pytest.warns(UserWarning, match=r"step_000004.*tensors\.safetensors"):
        assert vla_rl("train", "--out", out, "--resume", "--train.iterations", "5") == 0
    assert "resuming after iteration 2" in capsys.readouterr().out


def test_a_users_algorithm_by_dotted_name(clone, tmp_path):
    out = tmp_path / "run"
    name = "tests.user_code.plain_reinforce"
    options = ["--algorithm", name, "--algo.group-size", "4", "--train.iterations", "2"]
    assert vla_rl("train", "--policy", clone, "--out", out, *options) == 0
    assert json.loads((out / "config.json").read_text())["algo"]["group_size"] == 4


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A run of two iterations from fresh weights, which solve nothing: only progress pays."""
    out = tmp_path_factory.mktemp("cli") / "fresh"
    options = [
        *("--suite", "point_reach", "--tasks", "red", "--network", "tiny", "--net.chunk", "2"),
        *("--rewards", "dense", "--train.iterations", "2", "--train.checkpoint-every", "1"),
        *("--train.episodes-per-iteration", "64", "--rollout.workers", "1"),
    ]
    assert vla_rl("train", *options, "--out", out) == 0
    return out


def test_train_begins_with_fresh_weights_where_no_policy_is_given(fresh):
    policy = load_policy(fresh / "policy", point_reach.spaces(point_reach.Settings()))
    assert isinstance(policy, tiny.Policy)
    assert policy.chunk == 2
    assert read_world(fresh / "policy").tasks == ("red",)
    assert [row["step"] for row in read_metrics(fresh / "metrics.jsonl")] == [1, 2]
    first, second = (
        load_file(fresh / "checkpoints" / f"step_{step:06d}" / "policy" / "model.safetensors")
        for step in (1, 2)
    )
    assert (first["vision.weight"] != second["vision.weight"]).any(), "all of it is trained"


def test_fresh_weights_normalise_the_states_they_met(fresh):
    weights = load_file(fresh / "policy" / "model.safetensors")
    env = point_reach.make(point_reach.tasks()[0], point_reach.Settings())
    met = []
    for index in range(200):
        env.start(seed_for("train", index))
        met.append(env.observe().state)
    # They met the states of some whole episodes: like those at starts, but not the same.
    assert np.abs(weights["state_mean"] - np.mean(met, axis=0)).max() < np.std(met, axis=0).max()
    assert 0.3 < (weights["state_std"] / np.std(met, axis=0)).max() < 3
    assert (weights["state_mean"] != 0).all()


def test_a_run_from_fresh_weights_can_be_resumed(fresh, tmp_path, capsys):
    out = shutil.copytree(fresh, tmp_path / "run")
    assert vla_rl("train", "--out", out, "--resume", "--train.iterations", "3") == 0
    assert "resuming after iteration 2" in capsys.readouterr().out
    assert [row["step"] for row in read_metrics(out / "metrics.jsonl")] == [1, 2, 3]
    before, after = (load_file(run / "policy" / "model.safetensors") for run in (fresh, out))
    # Statistics go on: what was met in one more iteration moves them a little.
    moved = np.abs(before["state_mean"] - after["state_mean"]) / before["state_std"]
    assert 0 < moved.max() < 0.5
    assert (before["vision.weight"] != after["vision.weight"]).any()


@pytest.mark.parametrize(
    "named", [["--suite", "point_reach"], ["--env", "point_reach"], ["--env=point_reach"]]
)
def test_env_is_another_name_of_suite(named, tmp_path):
    out = tmp_path / "demos"
    options = ["--tasks", "red", "--env.image-size", "32", "--episodes", "1", "--out", out]
    assert vla_rl("record", *named, *options) == 0
    assert read_world(out).suite == "point_reach"
    assert read_world(out).env == point_reach.Settings(image_size=32)


def test_a_first_bare_word_names_the_suite(capsys):
    assert vla_rl("check", "point_reach", "--seeds", "2", "--limit", "1") == 0
    shown = capsys.readouterr().out
    assert "point_reach keeps the contract" in shown
    assert "2 of 2 differ" in shown
    assert "green" not in shown


def test_an_anchored_run_needs_and_uses_demonstrations(clone, demos, tmp_path, capsys):
    options = ["--policy", clone, "--anchor.coef", "1", "--train.iterations", "2"]
    assert vla_rl("train", "--out", tmp_path / "a", *options) == 2
    assert "--demos" in capsys.readouterr().err
    assert vla_rl("train", "--out", tmp_path / "b", "--demos", demos, *options) == 0


def test_compare_refuses_other_protocols(clone, tmp_path, capsys):
    files = []
    for episodes in ("5", "6"):
        files.append(tmp_path / f"{episodes}.json")
        options = ["--eval.episodes-per-task", episodes, "--out", files[-1]]
        assert vla_rl("eval", "--policy", clone, *options) == 0
    assert vla_rl("compare", files[0], files[0]) == 0
    assert vla_rl("compare", *files) == 2
    error = capsys.readouterr().err
    assert "5x20steps" in error
    assert "6x20steps" in error


def test_inspect_shows_demos_results_and_policies(clone, demos, tmp_path, capsys):
    for path in (demos, clone):
        assert vla_rl("inspect", path) == 0
    shown = capsys.readouterr().out
    assert "go to the red dot" in shown
    assert "episode_share" in shown


def test_append_adds_new_starts(tmp_path, capsys):
    options = ["record", "--suite", "point_reach", "--tasks", "red", "--episodes", "2"]
    assert vla_rl(*options, "--out", tmp_path / "d") == 0
    assert vla_rl(*options, "--out", tmp_path / "d") == 2
    assert "--append" in capsys.readouterr().err
    assert vla_rl(*options, "--out", tmp_path / "d", "--append") == 0
    assert "4 episodes" in " ".join(capsys.readouterr().out.split())


BAD_INPUT = {
    "unknown command": (["trainn"], "did you mean 'train'"),
    "unknown suite": (["record", "--suite", "metawurld"], "did you mean 'metaworld'"),
    "unknown suite first": (["check", "metawurld"], "did you mean 'metaworld'"),
    "unknown task": (["record", "--tasks", "drawer-opn-v3"], "did you mean 'drawer-open-v3'"),
    "task twice": (["record", "--tasks", "push-v3", "push-v3"], "named twice"),
    "impossible camera": (["record", "--env.cameras", "corner9"], "did you mean 'corner"),
    "impossible size": (["record", "--env.image-size", "3"], "3 is outside 16..1024"),
    "impossible horizon": (["record", "--max-steps", "0"], "max_steps must be at least 1, got 0"),
    "episodes": (["record", "--episodes", "1", "2"], "one for each of 3 tasks"),
    "no episodes": (["record", "--episodes", "0"], "at least 1"),
    "chunk 0": (["sft", "--demos", "{demos}", "--net.chunk", "0"], "chunk"),
    "group size 1": (["train", "--policy", "{clone}", "--algo.group-size", "1"], "at least 2"),
    "unknown algorithm": (["train", "--policy", "{clone}", "--algorithm", "lop"], "'loop'"),
    "unknown reward": (["train", "--policy", "{clone}", "--rewards", "spars"], "'sparse'"),
    "unknown curriculum": (["train", "--policy", "{clone}", "--curriculum", "x"], "frontier"),
    "unknown protocol": (["eval", "--policy", "{clone}", "--eval.protocol", "x"], "point-reach"),
    "no policy there": (["eval", "--policy", "/nowhere"], "/nowhere"),
    "no demos there": (["sft", "--demos", "/nowhere"], "/nowhere"),
    "nothing to resume": (["train", "--out", "/nowhere", "--resume"], "nothing to resume"),
    "other action space": (["sft", "--demos", "{demos}", "--suite", "metaworld"], "does not fit"),
    "policy of another suite": (
        ["eval", "--policy", "{clone}", "--suite", "metaworld"],
        "made for",
    ),
    "bad device": (["eval", "--policy", "{clone}", "--device", "tpu"], "auto, cpu, cuda"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_answered_before_any_work(name, demos, clone, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, answer = BAD_INPUT[name]
    filled = [word.format(demos=demos, clone=clone) for word in words]
    began = time.monotonic()
    try:
        status = vla_rl(*filled)
    except SystemExit as error:  # tyro's own way out
        status = int(error.code or 0)
    assert status == 2
    captured = capsys.readouterr()
    # Messages may be wrapped, and framed, to the width of the terminal.
    said = " ".join((captured.err + captured.out).replace("│", " ").split())
    assert answer in said
    assert not list(tmp_path.iterdir()), "something was written"
    assert time.monotonic() - began < 20


def test_no_disk_space(clone, tmp_path, capsys, monkeypatch):
    from vla_rl.stages import run as stages

    monkeypatch.setattr(stages, "SPACE_FOR_A_RUN", 10**18)
    assert vla_rl("train", "--policy", clone, "--out", tmp_path / "run") == 1
    assert "free" in capsys.readouterr().err


def test_no_gl_library(tmp_path):
    code = (
        "import sys; from vla_rl.envs._mujoco import gl;"
        "gl._probe = lambda backend: gl._Probe(False, 'no library');"
        "from vla_rl import cli; sys.exit(cli.main(sys.argv[1:]))"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "VLA_RL_GL")}
    done = subprocess.run(
        [sys.executable, "-c", code, "record", "--out", str(tmp_path / "demos")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "apt-get install" in done.stderr


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        vla_rl(name, "--help")
    assert stopped.value.code == 0
    assert "usage: vla-rl" in capsys.readouterr().out


def test_help_shows_few_options_names_the_others_and_explains_those_of_a_group(capsys):
    def shown(*words):
        with pytest.raises(SystemExit) as stopped:
            vla_rl("train", *words)
        assert stopped.value.code == 0
        return capsys.readouterr().out

    short = shown("--algorithm", "ppo", "--help")
    assert "--policy" in short
    assert "--seed INT" in short
    assert "--learner.lr FLOAT" not in short
    assert "--learner.  lr, vlm-lr" in short
    assert "gae-lambda" in short
    assert "--net.  backbone, backbone.precision, head, head.rho" in short
    group = shown("--algorithm", "ppo", "--help", "algo")
    assert "--algo.gae-lambda FLOAT" in group
    assert "--policy" not in group
    everything = shown("--help-all")
    assert "--policy" in everything
    assert "--learner.lr FLOAT" in everything
    assert vla_rl("train", "--help", "ancor") == 2
    assert "did you mean 'anchor'" in capsys.readouterr().err


def test_overview_lists_every_command(capsys):
    assert vla_rl("--help") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in cli.COMMANDS)
    on_disk = {
        p.stem.replace("_", "-") for p in (Path(cli.__file__).parent / "commands").glob("[a-z]*.py")
    }
    assert on_disk == set(cli.COMMANDS)
