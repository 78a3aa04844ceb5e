from __future__ import annotations

import io
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vla_rl.results.metrics import MetricsWriter, read_metrics
from vla_rl.stages.progress import Progress


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def steps(folder: Path) -> list[int]:
    return [row["step"] for row in read_metrics(folder / "metrics.jsonl")]


def test_rows_are_flushed_and_agree_with_tensorboard(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path / "run")
    writer.write(1, {"train/success": 0.5, "train/env_steps": np.int64(100), "note": "warm"})
    writer.write(2, {"train/success": np.float32(0.75), "ok": True, "none": None})
    rows = read_metrics(writer.path)  # before it is closed
    assert [row.pop("time") > 1e9 for row in rows] == [True, True]
    assert rows == [
        {"step": 1, "train/success": 0.5, "train/env_steps": 100, "note": "warm"},
        {"step": 2, "train/success": 0.75, "ok": True, "none": None},
    ]
    assert scalars(tmp_path / "run", "train/success") == [(1, 0.5), (2, 0.75)]
    writer.close()


def test_a_resumed_run_has_no_duplicates(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        for step in range(1, 8):
            writer.write(step, {"loss": step / 8})
    with MetricsWriter(tmp_path, resume_step=5) as writer:
        assert steps(tmp_path) == [1, 2, 3, 4, 5]
        for step in (6, 7, 8):
            writer.write(step, {"loss": step / 16})
    assert steps(tmp_path) == list(range(1, 9))
    expected = [(s, s / 8) for s in range(1, 6)] + [(s, s / 16) for s in (6, 7, 8)]
    assert scalars(tmp_path, "loss") == expected


def test_opening_again_keeps_everything(tmp_path: Path) -> None:
    MetricsWriter(tmp_path).write(1, {"loss": 0.5})
    MetricsWriter(tmp_path).write(2, {"loss": 0.25})
    assert steps(tmp_path) == [1, 2]
    assert scalars(tmp_path, "loss") == [(1, 0.5), (2, 0.25)]


def test_rewinding_one_stage_keeps_the_others(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        writer.write(400, {"sft/loss": 1.0})
        writer.write(800, {"sft/loss": 0.5})
        for step in (1, 2, 3):
            writer.write(step, {"train/success": 0.5, "time/total": 1.0})
        writer.rewind(2, prefix="train/")
        writer.write(3, {"train/success": 0.75})
    assert steps(tmp_path) == [400, 800, 1, 2, 3]
    assert scalars(tmp_path, "train/success")[-1] == (3, 0.75)
    assert scalars(tmp_path, "sft/loss") == [(400, 1.0), (800, 0.5)]


def test_a_torn_last_line_is_left_out_and_written_over(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"loss": 0.5})
        writer.write(2, {"loss": 0.25})
    content = writer.path.read_text()
    writer.path.write_text(content[:-5])
    assert steps(tmp_path) == [1]
    with MetricsWriter(tmp_path) as writer:
        writer.write(2, {"loss": 0.125})
    assert steps(tmp_path) == [1, 2]


def test_damage_elsewhere_and_absence_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(ValueError, match="there are no metrics at"):
        read_metrics(path)
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2 is damaged"):
        read_metrics(path)


def test_numbers_that_are_not_finite_are_null_with_one_warning(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        with pytest.warns(UserWarning, match="loss is nan at step 1, written as null"):
            writer.write(1, {"loss": float("nan"), "fine": 1.0})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            writer.write(2, {"loss": np.float32("inf")})
    lines = [json.loads(line) for line in writer.path.read_text().splitlines()]
    assert [line["loss"] for line in lines] == [None, None]


def test_reserved_names_are_refused(tmp_path: Path) -> None:
    with (
        MetricsWriter(tmp_path) as writer,
        pytest.raises(ValueError, match="may not be named 'step'"),
    ):
        writer.write(1, {"step": 2})


def test_importing_it_does_not_import_torch() -> None:
    program = "import sys, vla_rl.results.metrics; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "False"


# ------------------------------------------------------------------------------------- progress


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_lines_are_few_and_tell_the_time_left() -> None:
    out, clock = io.StringIO(), Clock()
    with Progress("record", 20, console=Console(file=out), clock=clock) as progress:
        for _ in range(20):
            clock.now += 2.0
            progress.advance("success 0.62")
    lines = out.getvalue().splitlines()
    # 2 s each: lines at 2, 8 (the first at least 5 s later), 14, ... and one at the end
    assert lines[0] == "record 1 of 20, 0:38 left, success 0.62"
    assert lines[1] == "record 4 of 20, 0:32 left, success 0.62"
    assert lines[-1] == "record 20 of 20, after 0:40, success 0.62"
    assert len(lines) == 8


def test_the_time_left_of_a_resumed_stage_counts_its_own_work_only() -> None:
    clock = Clock()
    progress = Progress("improve", 100, done=90, console=Console(file=io.StringIO()), clock=clock)
    assert progress.seconds_left() == float("inf")
    clock.now = 3600.0
    progress.advance(count=2)
    assert progress.seconds_left() == pytest.approx(4 * 3600)


def test_on_a_terminal_there_is_a_bar() -> None:
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=True, width=120)
    with Progress("improve", 4, console=console, clock=clock) as progress:
        clock.now = 3700.0
        progress.advance("success [0.62]")
    shown = out.getvalue()
    assert "success [0.62]" in shown
    assert "1/4" in shown
    assert "3:05:00 left" in shown
    assert "after" not in shown
