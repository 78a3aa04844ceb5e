from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vla_rl import cli
from vla_rl.results import aggregate
from vla_rl.results.aggregate import (
    Curve,
    align,
    bootstrap_interval,
    common_grid,
    iqm,
    trailing_mean,
)
from vla_rl.results.curves import draw_curves
from vla_rl.results.evaluation import EvalResult, TaskResult
from vla_rl.results.run_folders import FinishedRun, group, read_run

TASKS = ("push", "throw")


def make_run(folder: Path, seed: int = 0, algorithm: str = "loop", **changes: Any) -> Path:
    """A run folder of ten iterations of 100 steps, in which success grows with the seed."""
    config: dict[str, Any] = {
        "command": "train",
        "policy": "runs/sft/policy",
        "out": str(folder),
        "resume": False,
        "world": {"suite": "toys", "tasks": list(TASKS), "max_steps": [50], "env": {"size": 8}},
        "algorithm": algorithm,
        "algo": {"group_size": 8, "kl_coef": 0.0},
        "demos": None,
        "learner": {"lr": 1e-4},
        "seed": seed,
    }
    for name, value in changes.items():
        *path, last = name.split("__")
        place = config
        for part in path:
            place = place[part]
        place[last] = value
    rows: list[dict[str, Any]] = [{"step": 10, "time": 0.0, "sft/loss": 0.5}]
    for i in range(1, 11):
        row = {"step": i, "time": 0.0, "train/env_steps": 100 * i}
        row |= {"train/success/push": i / 10, "train/success/throw": (i + seed) / 20}
        row |= {"time/physics": 6.0, "time/update": 3.0, "time/total": 10.0}
        rows.append(row)
    del rows[5]["train/success/throw"]  # that iteration did not play it
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def evaluated(folder: Path, solved: int, protocol: str = "custom:toys") -> Path:
    task = TaskResult(tuple(range(10)), tuple(i < solved for i in range(10)), (30 + solved,) * 10)
    result = EvalResult(protocol, "toys", 50, {}, "egl", dict.fromkeys(TASKS, task))
    (folder / "eval_after.json").write_text(result.to_json())
    return folder


def run_of(env_steps: list[float], **success: list[float]) -> FinishedRun:
    horizons: dict[str, Any] = dict.fromkeys(success, 50)
    curves = {task: np.array(values, float) for task, values in success.items()}
    inputs: dict[str, str] = {}
    return FinishedRun(
        *(Path("a"), "loop", 0, "toys", horizons, {}, inputs),
        *(np.array(env_steps, float), curves, {}, None),
    )


# ---------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5], 5),
        ([1, 2, 6], 3),  # a quarter of three is no value
        ([100, 2, 4, 0], 3),
        ([0, 1, 2, 3, 4, 5, 6, 100], 3.5),  # 2, 3, 4, 5
        ([9, 0, 1, 1, 2, 3, 7, 8, 9], 4.2),  # nine without two at each end: 1, 2, 3, 7, 8
    ],
)
def test_iqm_by_hand(values: list[float], expected: float) -> None:
    assert iqm(values) == pytest.approx(expected)


def test_iqm_keeps_the_other_axes() -> None:
    assert iqm([[0, 8], [1, 1], [3, 3], [50, 5]]).tolist() == [2, 4]
    with pytest.raises(ValueError, match="no values"):
        iqm([])


def test_the_bootstrap_of_constant_data_is_that_constant() -> None:
    low, high = bootstrap_interval(np.full((4, 3, 5), 0.7))
    assert low == pytest.approx(np.full(5, 0.7))
    assert high == pytest.approx(np.full(5, 0.7))


def test_the_bootstrap_is_stratified_by_task() -> None:
    # Runs agree on every task, so only draws that mix up the tasks could vary.
    scores = np.tile(np.array([0.0, 0.2, 0.9, 1.0]), (3, 1))
    low, high = bootstrap_interval(scores)
    assert low == high == pytest.approx(iqm(scores.ravel()))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    truth = np.array([0.3, 0.5, 0.7])  # symmetric, so the IQM over them is 0.5
    hits = 0
    for _ in range(100):
        low, high = bootstrap_interval(truth + 0.1 * rng.standard_normal((10, 3)), resamples=200)
        hits += low <= 0.5 <= high
    assert 85 <= hits <= 100


def test_the_interval_is_the_same_every_time_and_needs_two_runs() -> None:
    scores = np.random.default_rng(1).random((3, 2, 4))
    first, second = bootstrap_interval(scores), bootstrap_interval(scores)
    assert np.array_equal(first, second)
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap_interval(scores[:1])


def test_trailing_mean_by_hand() -> None:
    assert trailing_mean(np.array([1.0, 3.0, 5.0, 1.0]), 3).tolist() == [1, 2, 3, 3]
    assert trailing_mean(np.array([1.0, 3.0]), 1).tolist() == [1, 3]
    with pytest.raises(ValueError, match="window must be at least 1"):
        trailing_mean(np.array([1.0]), 0)


def test_curves_are_interpolated_on_common_steps() -> None:
    short = run_of([100, 200, 300], push=[0.0, 0.4, 0.8], throw=[np.nan, 0.2, 1.0])
    long = run_of([50, 500], push=[0.0, 0.9], throw=[0.0, 0.0])
    grid = common_grid([short, long], points=5)
    assert grid.tolist() == [100, 150, 200, 250, 300]
    curves = align(short, ["push", "throw"], grid, window=1)
    assert curves == pytest.approx(np.array([[0.0, 0.2, 0.4, 0.6, 0.8], [0.2, 0.2, 0.2, 0.6, 1.0]]))
    smoothed = align(short, ["push"], grid, window=2)
    assert smoothed == pytest.approx(np.array([[0.0, 0.1, 0.2, 0.4, 0.6]]))
    assert align(long, ["push"], grid, window=1)[0, 0] == pytest.approx(0.1)
    with pytest.raises(ValueError, match="never played lift in 3 iterations; train it longer"):
        align(short, ["lift"], grid, window=1)


def test_a_run_that_ends_before_another_begins_is_still_drawn() -> None:
    grid = common_grid([run_of([100], push=[0.5]), run_of([300, 400], push=[0.1, 0.2])], points=3)
    assert grid.tolist() == [100, 100, 100]


def test_steps_to_the_threshold_count_the_runs_that_reached_it() -> None:
    runs = [
        run_of([0, 99], push=[0.0, 0.99]),  # the grid has a point at every step
        run_of([0, 99], push=[0.0, 0.495]),
        run_of([0, 99], push=[0.0, 0.1]),
    ]
    (summary,) = aggregate.summarise({"loop": runs}, window=1, threshold=0.4)
    assert summary.reached == (40.0, 80.0)
    assert summary.steps_to_threshold == 60
    (never,) = aggregate.summarise({"loop": runs}, window=1, threshold=1.0)
    assert never.steps_to_threshold is None
    with pytest.raises(ValueError, match="threshold"):
        aggregate.summarise({"loop": runs}, window=1, threshold=0.0)


# ----------------------------------------------------------------------------------------- labels


def test_only_seeds_share_a_label(tmp_path: Path) -> None:
    folders = [
        make_run(tmp_path / "a", 0),
        make_run(tmp_path / "b", 1),
        make_run(tmp_path / "c", 0, "grpo"),
        make_run(tmp_path / "d", 0, "grpo", algo__kl_coef=0.01),
        make_run(tmp_path / "e", 0, "grpo", algo__kl_coef=0.01, learner__lr=0.001),
    ]
    groups = group([read_run(folder) for folder in folders])
    assert {label: [run.seed for run in runs] for label, runs in groups.items()} == {
        "loop": [0, 1],
        "grpo kl_coef=0.0 learner.lr=0.0001": [0],
        "grpo kl_coef=0.01 learner.lr=0.0001": [0],
        "grpo kl_coef=0.01 learner.lr=0.001": [0],
    }


def test_evaluations_during_training_make_no_other_label(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", 0, train={"eval_every": 0, "early_stop": 0}),
        make_run(tmp_path / "b", 1, train={"eval_every": 5, "early_stop": 0}),
        make_run(tmp_path / "c", 2, train={"eval_every": 5, "early_stop": 3}),
    ]
    assert list(group([read_run(run) for run in runs])) == [
        "loop train.early_stop=0",
        "loop train.early_stop=3",
    ]


def test_settings_that_one_run_lacks_and_lists_in_labels(tmp_path: Path) -> None:
    runs = [
        read_run(make_run(tmp_path / "a", algo__clip=[0.2, 0.3], world__env__size=16)),
        read_run(make_run(tmp_path / "b")),
    ]
    assert list(group(runs)) == [
        "loop world.env.size=16 clip=0.2+0.3",
        "loop world.env.size=8 clip=unset",
    ]


def test_a_demo_and_a_train_run_differ_by_their_command(tmp_path: Path) -> None:
    demo = make_run(tmp_path / "a", command="demo", policy=None, net={"chunk": 5})
    runs = [read_run(demo), read_run(make_run(tmp_path / "b"))]
    assert list(group(runs)) == ["loop command=demo", "loop command=train"]


def test_other_inputs_are_warned_about_and_averaged(tmp_path: Path) -> None:
    runs = [
        read_run(make_run(tmp_path / str(s), s, policy=f"clone{s}", demos=f"demos{s}"))
        for s in (0, 1)
    ]
    with (
        pytest.warns(UserWarning, match="different policy: .*clone0.*clone1"),
        pytest.warns(UserWarning, match="different demos: .*demos0.*demos1"),
    ):
        assert list(group(runs)) == ["loop"]


def test_worlds_are_the_same_however_they_are_written(tmp_path: Path) -> None:
    runs = [
        read_run(make_run(tmp_path / "a", 0, world__tasks=["throw", "push"])),
        read_run(make_run(tmp_path / "b", 1, world__max_steps=[50, 50])),
    ]
    assert list(group(runs)) == ["loop"]


REFUSED: dict[str, dict[str, Any]] = {
    "suites": {"world__suite": "games"},
    "tasks": {"world__tasks": ["push"]},
    "horizons": {"world__max_steps": [50, 60]},
}


@pytest.mark.parametrize("what", REFUSED)
def test_other_worlds_are_refused(what: str, tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", 1, **REFUSED[what])
    with pytest.raises(ValueError, match=f"runs of different {what} .* in {a}, .* in {b}"):
        group([read_run(a), read_run(b)])


def test_other_protocols_are_refused(tmp_path: Path) -> None:
    a = evaluated(make_run(tmp_path / "a"), 5)
    b = evaluated(make_run(tmp_path / "b", 1), 5, "custom:other")
    with pytest.raises(ValueError, match=f"protocols .*custom:toys in {a}, custom:other in {b}"):
        group([read_run(a), read_run(b)])


def test_the_same_label_and_seed_twice_is_refused(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    with pytest.raises(ValueError, match=f"{a} and {b} are both 'loop' with seed 0"):
        group([read_run(a), read_run(b)])
    with pytest.raises(ValueError, match="no run"):
        group([])


# ---------------------------------------------------------------------------------------- command


def compare(*words: object) -> int:
    return cli.main(["compare", *map(str, words)])


def spread(picture: Path) -> float:
    return float(np.asarray(Image.open(picture).convert("L"), float).std())


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


def test_one_world_of_all_tasks(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / str(s), s, world__tasks=["all"]) for s in (0, 1)]
    (summary,) = aggregate.summarise(group([read_run(f) for f in folders]), 1, 0.9)
    assert summary.final.value == pytest.approx((0.5 + 0.55 + 1 + 1 - 0.5 - 1) / 2)


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


# ---------------------------------------------------------------------------------------- picture


def test_many_curves_and_long_labels_are_drawn(tmp_path: Path) -> None:
    x = np.linspace(0, 1e6, 20)
    one = Curve("loop", 1, x, x / 1e6)
    sure = replace(one, runs=3, low=x / 2e6, high=np.minimum(1.5 * x / 1e6, 1))
    draw_curves([one], tmp_path / "one.png", "one")
    draw_curves([sure], tmp_path / "sure.png", "one")
    many = [replace(sure, label=f"an algorithm with a long name lr={i}") for i in range(14)]
    draw_curves(many, tmp_path / "many.png", "many")
    assert all(spread(tmp_path / f"{name}.png") > 5 for name in ("one", "sure", "many"))
    pictures = [np.asarray(Image.open(tmp_path / f"{n}.png"), float) for n in ("one", "sure")]
    assert np.abs(pictures[1] - pictures[0]).mean() > 1, "the band is missing"
    with pytest.raises(ValueError, match="no curve"):
        draw_curves([], tmp_path / "none.png", "none")
