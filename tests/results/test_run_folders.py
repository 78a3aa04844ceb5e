"""Which runs share a label, and which cannot be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.results.helpers import evaluated, make_run
from vla_rl.results.run_folders import group, read_run


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
