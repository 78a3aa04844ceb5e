"""The command compare, given run folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.results.helpers import compare, evaluated, make_run, spread
from vla_rl.results import aggregate


def test_the_command_draws_prints_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    folders = [evaluated(make_run(tmp_path / f"a{s}", s), 6 + s) for s in (0, 1, 2)]
    folders.append(make_run(tmp_path / "b", 0, "grpo"))
    out, numbers = tmp_path / "new" / "compare.png", tmp_path / "other" / "compare.json"
    options = ("--out", out, "--json", numbers, "--window", 1, "--threshold", 0.5)
    assert compare(*folders, *options) == 0
    assert spread(out) > 5
    shown = capsys.readouterr().out
    assert "1,000 environment steps" in shown
    assert "3 (0, 1, 2)" in shown
    assert "70.0% [45.2%, 94.8%]" in shown  # 0.6, 0.7, 0.8: 4.303 * 0.1 / sqrt(3) on each side
    assert "(1 run)" in shown
    loop, grpo = json.loads(numbers.read_text())["labels"]
    # At the end push is 1, 1, 1 and throw 0.5, 0.55, 0.6: without the lowest and the highest.
    assert loop["train_success"]["value"] == pytest.approx((0.55 + 0.6 + 1 + 1) / 4)
    low, high = loop["train_success"]["interval"]
    assert 0.75 <= low < loop["train_success"]["value"] < high <= 0.8
    assert loop["solved_steps"]["value"] == pytest.approx(37)
    assert loop["wall_time"] == pytest.approx({"physics": 0.6, "update": 0.3, "other": 0.1})
    # By hand: mean of i / 10 and (i + seed) / 20 is 0.5 at i = (20 - seed) / 3.
    steps = np.mean([100 * (20 - seed) / 3 for seed in (0, 1, 2)])
    assert loop["steps_to_threshold"] == pytest.approx(steps, abs=10)
    assert loop["runs_that_reached_it"] == 3
    assert len(loop["curve"]["env_steps"]) == len(loop["curve"]["low"]) == aggregate.POINTS
    assert grpo["train_success"]["value"] == pytest.approx(0.75)
    assert grpo["train_success"]["interval"] is None
    assert grpo["held_out_success"] is None
    assert grpo["curve"]["low"] is None


def test_held_out_success_needs_every_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [evaluated(make_run(tmp_path / "a", 0), 5), make_run(tmp_path / "b", 1)]
    assert compare(*folders, "--out", tmp_path / "c.png", "--json", tmp_path / "c.json") == 0
    (label,) = json.loads((tmp_path / "c.json").read_text())["labels"]
    assert label["held_out_success"] is None


def test_one_run_has_no_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    folder = evaluated(make_run(tmp_path / "a"), 5)
    assert compare(folder, "--out", tmp_path / "c.png") == 0
    shown = capsys.readouterr().out
    assert "1 run" in shown
    assert "%," not in shown  # the middle of any interval


def without(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


def with_text(name: str, text: str) -> Any:
    return lambda folder: (folder / name).write_text(text)


def no_throw(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("train/success/throw", None)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


BROKEN = {
    "no config": (without("config.json"), "is not a run folder, config.json is missing; give"),
    "damaged config": (with_text("config.json", "{"), "config.json is damaged"),
    "another command": (with_text("config.json", '{"seed": 0, "world": {}}'), "no algorithm"),
    "no metrics": (without("metrics.jsonl"), "has no metrics.jsonl; start it with `vla-rl"),
    "empty metrics": (
        with_text("metrics.jsonl", ""),
        "has no iteration of training; continue with",
    ),
    "only cloned": (with_text("metrics.jsonl", '{"sft/loss": 1.0}\n'), "no iteration of training"),
    "damaged metrics": (with_text("metrics.jsonl", "{\n{}\n"), "line 1 is damaged"),
    "damaged evaluation": (with_text("eval_after.json", "{}"), "not an evaluation result"),
    "task not played": (no_throw, "never played throw in 10 iterations"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_run_is_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, answer = BROKEN[name]
    folder = make_run(tmp_path / "broken")
    damage(folder)
    out = tmp_path / "c.png"
    assert compare(make_run(tmp_path / "whole", 1), folder, "--out", out) == 2
    error = capsys.readouterr().err
    assert answer in error
    assert str(folder) in error
    assert not out.exists()


def test_files_and_folders_do_not_mix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = evaluated(make_run(tmp_path / "a"), 5)
    file = folder / "eval_after.json"
    assert compare(folder, file) == 2
    assert "got 1 files and 1 folders" in capsys.readouterr().err
    assert compare(file) == 2
    assert compare() == 2
    assert compare(tmp_path / "nowhere") == 2
    assert f"{tmp_path / 'nowhere'} does not exist" in capsys.readouterr().err


def test_two_files_are_two_evaluations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [evaluated(make_run(tmp_path / str(s), s), 4 + s) / "eval_after.json" for s in (0, 1)]
    assert compare(*files) == 0
    assert "custom:toys" in capsys.readouterr().out
