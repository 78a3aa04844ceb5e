"""Metrics of a run: one JSON object per line, and the same for TensorBoard.

``metrics.jsonl`` is authoritative; the TensorBoard file next to it is written again from it
whenever a run is resumed. Nothing here imports torch.
"""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

FILE = "metrics.jsonl"
TENSORBOARD = "tensorboard"
_RESERVED = ("step", "time")
# Success of the episodes of an iteration, or the completed share of sequences.
_OUTCOMES = ("success", "completed")

Value = float | int | bool | str | None | np.generic
Row = dict[str, Any]


def read_metrics(path: Path) -> list[Row]:
    """Read the rows of a ``metrics.jsonl``; an incomplete last line is ignored.

    Raises:
        ValueError: If there is no file, or a line before the last is damaged.
    """
    if not path.is_file():
        raise ValueError(f"there are no metrics at {path}")
    lines = path.read_text().split("\n")
    rows = []
    for number, line in enumerate(lines[:-1], 1):  # the rest is incomplete or empty
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is damaged: {error}") from error
    return rows


def outcome(row: Mapping[str, Any], of: str = "train") -> float | None:
    """Success over all episodes of an iteration, or completed share if any task is a sequence.

    Args:
        row: A row of ``metrics.jsonl``.
        of: ``"train"`` for training episodes, or ``"validation"`` for validation episodes.
    """
    names = (f"{of}/{kind}" for kind in _OUTCOMES)
    return next((row[name] for name in names if row.get(name) is not None), None)


def outcomes_by_task(row: Mapping[str, Any], of: str = "train") -> dict[str, float | None]:
    """Success of each task of an iteration, or completed share for sequences.

    Arguments are those of :func:`outcome`.
    """
    return {
        name.removeprefix(f"{of}/{kind}/"): row[name]
        for kind in _OUTCOMES
        for name in row
        if name.startswith(f"{of}/{kind}/")
    }


class MetricsWriter:
    """Appends to the metrics of a run; close it, or use it as a context manager.

    Args:
        folder: Run folder; existing metrics are kept.
        resume_step: Step of the checkpoint that the run resumes from; see :meth:`rewind`.

    Attributes:
        path: The ``metrics.jsonl``.
    """

    def __init__(self, folder: Path, resume_step: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE
        self._tensorboard = folder / TENSORBOARD
        self._warned: set[str] = set()
        self._lines, self._events = self._restart(self._rows())
        if resume_step is not None:
            self.rewind(resume_step)

    def write(self, step: int, values: Mapping[str, Value]) -> None:
        """Add a row and flush it.

        Args:
            step: Step of training; need not increase from row to row.
            values: Metrics by name. A number that is not finite is written as null, with a warning
                the first time.

        Raises:
            ValueError: If a name is ``step`` or ``time``.
        """
        for name in _RESERVED:
            if name in values:
                raise ValueError(f"a metric may not be named {name!r}, which every row has")
        plain = {name: self._plain(name, step, value) for name, value in values.items()}
        row = {"step": step, "time": round(time.time(), 3), **plain}
        self._lines.write(_line(row))
        self._lines.flush()
        self._events.write(_event(row))
        self._events.flush()

    def rewind(self, step: int, prefix: str = "") -> None:
        """Drop the rows after a step, because the resumed run will write them again.

        A kill at any time leaves either all rows or only the kept ones.

        Args:
            step: The last step to keep.
            prefix: Drop only rows with a metric whose name begins so, because other stages of a run
                count their own steps.
        """

        def stays(row: Row) -> bool:
            return row["step"] <= step or not any(
                name.startswith(prefix) for name in row if name not in _RESERVED
            )

        rows = self._rows()
        self.close()
        self._lines, self._events = self._restart(filter(stays, rows))

    def close(self) -> None:
        """Close the files."""
        self._lines.close()
        self._events.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _rows(self) -> list[Row]:
        return read_metrics(self.path) if self.path.exists() else []

    def _restart(self, rows: Iterable[Row]) -> tuple[TextIO, RecordWriter]:
        """Replace both files by new ones with these rows, and leave them open."""
        kept = list(rows)
        fresh = self.path.with_name(f".{FILE}.new")
        with fresh.open("w") as stream:
            stream.writelines(map(_line, kept))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(fresh, self.path)
        self._tensorboard.mkdir(exist_ok=True)
        for old in self._tensorboard.glob("events.out.tfevents.*"):
            old.unlink()
        name = f"events.out.tfevents.{time.time_ns()}.vla-rl"
        events = RecordWriter((self._tensorboard / name).open("wb"))
        head = Event(wall_time=time.time(), file_version="brain.Event:2")
        events.write(head.SerializeToString())
        for row in kept:
            events.write(_event(row))
        events.flush()
        return self.path.open("a"), events

    def _plain(self, name: str, step: int, value: Value) -> float | int | bool | str | None:
        plain = value.item() if isinstance(value, np.generic) else value
        if not isinstance(plain, float) or math.isfinite(plain):
            return plain
        if name not in self._warned:
            self._warned.add(name)
            warnings.warn(f"{name} is {plain} at step {step}, written as null", stacklevel=3)
        return None


class NoMetrics(MetricsWriter):
    """A writer that does nothing, for processes other than the main one."""

    def __init__(self) -> None:
        pass

    def write(self, step: int, values: Mapping[str, Value]) -> None:
        """Do nothing."""

    def rewind(self, step: int, prefix: str = "") -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def _line(row: Row) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def _event(row: Row) -> bytes:
    numbers = {
        name: value
        for name, value in row.items()
        if isinstance(value, float | int) and not isinstance(value, bool) and name not in _RESERVED
    }
    summary = Summary(value=[Summary.Value(tag=t, simple_value=v) for t, v in numbers.items()])
    event: bytes = Event(
        wall_time=row["time"], step=row["step"], summary=summary
    ).SerializeToString()
    return event
