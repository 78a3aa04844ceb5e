"""What may differ when a run goes on: it takes effect, or it is refused; config.json says which."""

from __future__ import annotations

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from vla_rl import cli
from vla_rl.commands import demo, expert, ire_vla, sft, train
from vla_rl.commands._parsing import parse
from vla_rl.config import dotted, from_json, to_json
from vla_rl.learning.learner import Learner
from vla_rl.results.metrics import read_metrics
from vla_rl.results.run_folders import read_run
from vla_rl.rollout.local_collector import LocalCollector
from vla_rl.stages.resuming import MAY_CHANGE, changes, configuration, flag
from vla_rl.storage import checkpoint

FRESH = [
    *("--suite", "point_reach", "--tasks", "red", "--network", "tiny", "--net.chunk", "2"),
    *("--rewards", "dense", "--train.episodes-per-iteration", "32", "--rollout.workers", "1"),
]
COMMANDS = {"train": train, "demo": demo, "ire_vla": ire_vla, "sft": sft, "expert": expert}


def vla_rl(*words: str | Path) -> int:
    """Run a command in this process; returns the exit status."""
    return cli.main([str(word) for word in words])


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of two iterations at a learning rate of 1e-4."""
    out = tmp_path_factory.mktemp("resuming") / "run"
    options = [*FRESH, "--train.iterations", "2", "--train.checkpoint-every", "1"]
    assert vla_rl("train", *options, "--out", out) == 0
    return out


@pytest.fixture
def run(begun, tmp_path):
    return Path(shutil.copytree(begun, tmp_path / "run"))


def config_of(folder: Path) -> dict:
    found: dict = json.loads((folder / "config.json").read_text())
    return found


def groups_of(folder: Path) -> list[dict]:
    """The optimizer's groups in the newest checkpoint."""
    state = checkpoint.load(folder / "checkpoints").state()
    groups: list[dict] = state["optimizer"]["param_groups"]
    return groups


def test_what_is_changed_is_in_the_optimizer_and_in_the_history(run):
    assert "history" not in config_of(run)
    assert {group["lr"] for group in groups_of(run)} == {1e-4, 1e-3}  # the deviation's is larger
    changed = ["--learner.lr", "5e-3", "--learner.weight-decay", "0.01"]
    more = ["--resume", "--out", run, "--train.iterations"]
    assert vla_rl("train", *more, "3", *changed) == 0
    backbone, head, _ = groups_of(run)
    assert (head["lr"], head["weight_decay"]) == (5e-3, 0.01)
    assert (backbone["lr"], backbone["weight_decay"]) == (1e-4, 0.01)
    config = config_of(run)
    assert config["learner"]["lr"] == 5e-3
    first = {
        "resumed_at": {"checkpoints": 2},
        "changed": {
            "learner.lr": [1e-4, 5e-3],
            "learner.weight_decay": [0.0, 0.01],
            "train.iterations": [2, 3],
        },
    }
    assert config["history"] == [first]

    # Once more with other changes, and once without any.
    assert vla_rl("train", *more, "4", "--learner.lr", "1e-3") == 0
    assert vla_rl("train", "--resume", "--out", run) == 0
    assert groups_of(run)[1]["lr"] == 1e-3
    second = {
        "resumed_at": {"checkpoints": 3},
        "changed": {"learner.lr": [5e-3, 1e-3], "train.iterations": [3, 4]},
    }
    assert config_of(run)["history"] == [first, second]
    assert [row["step"] for row in read_metrics(run / "metrics.jsonl")] == [1, 2, 3, 4]
    settings = read_run(run).settings
    assert settings["learner.lr"] == "0.0001, then 0.005, then 0.001"
    assert settings["train.iterations"] == 4  # as if it had been so from the beginning
    assert not any(name.startswith("history") for name in settings)


def test_a_changed_rate_moves_the_weights_as_far(run, tmp_path):
    """At a rate of next to nothing they stay where they are."""

    def moved(lr: str) -> float:
        out = shutil.copytree(run, tmp_path / lr)
        names = ("lr", "vlm-lr", "std-lr")
        rates = [word for name in names for word in (f"--learner.{name}", lr)]
        words = ["train", "--resume", "--out", out, "--train.iterations", "3", *rates]
        assert vla_rl(*words) == 0
        before, after = (
            checkpoint.load(folder / "checkpoints").policy / "model.safetensors"
            for folder in (run, out)
        )
        left, right = load_file(before), load_file(after)
        weights = [name for name in left if not name.startswith("state_")]  # statistics go on
        return max(float(np.abs(left[name] - right[name]).max()) for name in weights)

    assert moved("1e-12") < 1e-9 < 1e-5 < moved("1e-4")


def test_what_may_not_change_is_refused_and_nothing_is_written(run, capsys):
    before = config_of(run)
    words = ["--seed", "3", "--algo.group-size", "4", "--max-steps", "9", "--learner.lr", "1e-3"]
    assert vla_rl("train", "--resume", "--out", run, *words) == 2
    said = capsys.readouterr().err
    for difference in (
        "--seed was 0, now 3",
        "--algo.group-size was 8, now 4",
        "--max-steps was None, now [9]",
    ):
        assert difference in said
    assert "--learner.lr was" not in said
    assert "With --resume may change: --train.iterations, --train.minutes" in said
    assert config_of(run) == before


def test_another_algorithm_is_refused(run, capsys):
    assert vla_rl("train", "--resume", "--out", run, "--algorithm", "ppo") == 2
    assert "--algorithm was loop, now ppo" in capsys.readouterr().err


def test_the_same_options_again_are_no_change(run):
    words = ["train", "--resume", "--out", run, "--seed", "0", "--network", "tiny"]
    assert vla_rl(*words) == 0
    assert "history" not in config_of(run)


def test_a_relative_path_is_the_same_as_its_absolute_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(
        json.dumps(configuration(tmp_path, train.Command(policy=Path("clone")), resume=False))
    )
    saved = config_of(tmp_path)
    assert not changes(saved, train.Command(policy=tmp_path / "clone"))
    other = changes(saved, train.Command(policy=tmp_path / "other"))
    assert other == {"policy": ["clone", str(tmp_path / "other")]}


def test_a_setting_that_an_earlier_version_did_not_know_had_its_default(tmp_path):
    saved = configuration(tmp_path, train.Command(), resume=False)
    del saved["learner"]["weight_decay"]
    assert not changes(saved, train.Command())


def test_the_history_is_no_option(run):
    assert vla_rl("train", "--resume", "--out", run, "--train.minutes", "9") == 0
    parsed = parse(train.Command, ["--resume", "--out", str(run)], "train")
    assert parsed.train.minutes == 9
    assert not hasattr(parsed, "history")


# ------------------------------------------------------------------------ an error ends the run


def failing_from(monkeypatch, kind: type, method: str, call: int) -> None:
    """Let a method raise from its call of this number on, after it did what it does."""
    found, calls = getattr(kind, method), []

    def counted(self, *given, **named):
        result = found(self, *given, **named)
        calls.append(None)
        if len(calls) >= call:
            raise RuntimeError("the simulator is gone")
        return result

    monkeypatch.setattr(kind, method, counted)


def test_an_error_leaves_a_checkpoint_of_the_last_whole_iteration(tmp_path, capsys, monkeypatch):
    options = [*FRESH, "--train.iterations", "4", "--train.checkpoint-every", "100"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert vla_rl("train", *options, "--out", whole) == 0
    with monkeypatch.context() as patched:
        # Of the first, which meets states, and of one for each iteration.
        failing_from(patched, LocalCollector, "collect", 4)
        assert vla_rl("train", *options, "--out", cut) == 1
    said = capsys.readouterr().err
    assert f"after iteration 2; --resume continues after iteration 2, saved in {cut}" in said
    assert "the simulator is gone" in said
    assert [path.name for path in (cut / "checkpoints").iterdir()] == ["step_000002"]
    assert vla_rl("train", "--resume", "--out", cut) == 0
    left, right = (load_file(run / "policy" / "model.safetensors") for run in (whole, cut))
    assert all((left[name] == right[name]).all() for name in left)


def test_weights_in_the_middle_of_an_update_are_not_saved(tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    options = [*FRESH, "--train.iterations", "4", "--train.checkpoint-every", "100"]
    with monkeypatch.context() as patched:
        failing_from(patched, Learner, "step", 1)
        assert vla_rl("train", *options, "--out", out) == 1
    assert "after iteration 0; --resume starts again" in capsys.readouterr().err
    assert not (out / "checkpoints").exists()
    assert vla_rl("train", "--resume", "--out", out) == 0


@pytest.mark.parametrize("name", MAY_CHANGE)
def test_every_option_in_the_table_exists(name):
    made = {"policy": "p", "demos": "d"} if name in ("ire_vla", "sft") else {}
    command = from_json(COMMANDS[name].Command, made)
    known = [flag(setting) for setting in dict(dotted(to_json(command)))]
    for pattern in map(flag, MAY_CHANGE[name]):
        assert any(fnmatch(option, pattern) for option in known), pattern
