"""The learning curve of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter
from numpy.typing import NDArray

from vla_rl.results.evaluation import (
    EvalResult,
)
from vla_rl.results.intervals import Estimate
from vla_rl.results.metrics import outcome, outcomes_by_task

# Okabe and Ito's palette, which is distinguishable with every kind of colour vision.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SUCCESS, FAILURE, PLAYING = "#009E73", "#D55E00", "#C8CCD2"
_INK, _MUTED, _MEAN = "#24292F", "#6E7781", "#24292F"
_MARKERS = "osD^vP"


def learning_curve(
    rows: Sequence[Mapping[str, Any]],
    before: EvalResult | None,
    after: EvalResult | None,
    path: Path,
) -> None:
    """Draw success over environment steps, between the evaluations before and after.

    Evaluations on validation starts during training are open markers. With more tasks than colours,
    single tasks are grey and only their mean is coloured.

    Args:
        rows: Rows of ``metrics.jsonl``. Used are ``train/env_steps``, success or completed share of
            the iteration and of each task (missing where a task was not played), the same under
            ``validation/``, and ``time/total`` (seconds of the iteration). Rows of other stages are
            ignored.
        before: Evaluation of the policy before training, if there was one.
        after: Evaluation of the policy after training, if there was one.
        path: The PNG to write.
    """
    rows = [row for row in rows if row.get("train/env_steps") is not None]
    tasks = _tasks(rows, before, after)
    figure = Figure(figsize=(9, 4.4), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, sharey=True, width_ratios=(1, 5, 1))
    for axes, result, title in ((left, before, "before"), (right, after, "after")):
        _draw_evaluation(axes, result, tasks, title)
    _draw_training(middle, rows, tasks)
    left.set_ylim(-0.03, 1.05)
    left.yaxis.set_major_formatter(PercentFormatter(1.0))
    left.set_ylabel(measure(before, after), color=_INK)
    handles, labels = middle.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="upper center",
        ncols=min(len(labels), 4) or 1,
        frameon=False,
        bbox_to_anchor=(0.5, 1.0),
    )
    lines_of_legend = math.ceil(len(labels) / 4)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.055 * lines_of_legend), w_pad=0.4)
    figure.savefig(path)


def _tasks(rows: Sequence[Mapping[str, Any]], *results: EvalResult | None) -> list[str]:
    """All tasks that were trained or evaluated, in the order of the evaluation."""
    evaluated = chain.from_iterable(result.tasks for result in results if result is not None)
    trained = (task for row in rows for task in outcomes_by_task(row))
    return list(dict.fromkeys([*evaluated, *trained]))


def measure(*results: EvalResult | None) -> str:
    """What the results measure: ``"success"`` or ``"completed share"``."""
    sequences = [result for result in results if result is not None and result.has_sequences]
    return "completed share" if sequences else "success"


def _colour(task: int, tasks: int) -> str:
    return PALETTE[task] if tasks <= len(PALETTE) else PLAYING


def _draw_training(axes: Axes, rows: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> None:
    _clean(axes, "during training")
    axes.set_xlabel("environment steps", color=_INK)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    few = len(tasks) <= len(PALETTE)
    for i, task in enumerate(tasks):
        style = {"color": _colour(i, len(tasks)), "lw": 2.0 if few else 0.8}
        values = [outcomes_by_task(row).get(task) for row in rows]
        _draw_line(axes, rows, values, task if few else "", **style)
    if len(tasks) > 1:
        style = {"color": _MEAN, "lw": 2.6 if not few else 1.6, "ls": "-" if not few else "--"}
        means = [outcome(row) for row in rows]
        _draw_line(axes, rows, means, f"all {len(tasks)} tasks", **style)
    _draw_validation(axes, rows, tasks)
    _add_minutes(axes, rows)


def _draw_validation(axes: Axes, rows: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> None:
    """Draw an open marker for every evaluation: of the mean, and of tasks that have colours."""
    rows = [row for row in rows if outcome(row, "validation") is not None]
    if not rows:
        return
    at = np.array([row["train/env_steps"] for row in rows], float)
    style: dict[str, Any] = {"lw": 0, "marker": "D", "mfc": "none", "ms": 5}
    for i, task in enumerate(tasks if len(tasks) <= len(PALETTE) else ()):
        values = [outcomes_by_task(row, "validation").get(task) for row in rows]
        axes.plot(at, np.array(values, float), color=PALETTE[i], **style)  # None becomes NaN
    if len(tasks) != 1:
        means = [outcome(row, "validation") for row in rows]
        axes.plot(at, np.array(means, float), color=_MEAN, **style)
    axes.plot([], [], color=_MUTED, label="validation starts", **style)


def _draw_line(
    axes: Axes,
    rows: Sequence[Mapping[str, Any]],
    values: Sequence[float | None],
    label: str,
    **style: Any,
) -> None:
    at = [row["train/env_steps"] for row in rows]
    points = [(x, y) for x, y in zip(at, values, strict=True) if y is not None]
    if not points:
        return
    steps, success = np.array(points, float).T
    axes.plot(steps, smooth(success), label=label, solid_capstyle="round", **style)
    if label and style.get("ls") != "--":
        axes.plot(steps, success, color=style["color"], lw=0, marker=".", ms=3, alpha=0.25)


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Moving average over a tenth of the curve, with shorter windows at the ends."""
    half = len(values) // 20
    total = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    smoothed: NDArray[np.float64] = (total[high] - total[low]) / (high - low)
    return smoothed


def _add_minutes(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Wall time as a second scale, above the axes."""
    timed = [row for row in rows if row.get("time/total") is not None]
    if len(timed) < 2:
        return
    minutes = np.cumsum([row["time/total"] for row in timed]) / 60
    steps = np.array([row["train/env_steps"] for row in timed], float)
    unit = _nice(float(minutes[-1]) / 5)
    marks = np.arange(unit, minutes[-1], unit)
    top = axes.secondary_xaxis("top")
    top.set_xticks(np.interp(marks, minutes, steps), [f"{mark:g} min" for mark in marks])
    top.tick_params(labelsize=8, colors=_MUTED, length=2, pad=1)
    top.spines["top"].set_visible(False)


def _nice(value: float) -> float:
    """The smallest of 1, 2, 5, 10, ... (times a power of ten) that is at least the value."""
    power: float = 10.0 ** math.floor(math.log10(max(value, 1e-3)))
    return next(unit * power for unit in (1, 2, 5, 10) if unit * power >= value * (1 - 1e-9))


def _draw_evaluation(
    axes: Axes, result: EvalResult | None, tasks: Sequence[str], title: str
) -> None:
    _clean(axes, title)
    axes.set_xticks([])
    if result is None:
        axes.text(0.5, 0.5, "not\nevaluated", color=_MUTED, ha="center", va="center",
                  transform=axes.transAxes, fontsize=8)  # fmt: skip
        return
    few = len(tasks) <= len(PALETTE)
    for i, task in enumerate(tasks):
        if task in result.tasks and few:
            _draw_estimate(axes, i, result.tasks[task].share, PALETTE[i], _MARKERS[i])
    at = len(tasks) if few else 0
    if len(tasks) > 1:
        _draw_estimate(axes, at, result.mean, _MEAN, "_")
    axes.set_xlim(-0.8, at + (0.8 if len(tasks) > 1 else -0.2))


def _draw_estimate(axes: Axes, at: float, estimate: Estimate, colour: str, marker: str) -> None:
    error = [[estimate.value - estimate.low], [estimate.high - estimate.value]]
    axes.errorbar([at], [estimate.value], np.abs(error), color=colour, marker=marker, ms=6,
                  mew=2 if marker == "_" else 0, elinewidth=1.6, capsize=0)  # fmt: skip
    axes.annotate(f"{100 * estimate.value:.0f}", (at, estimate.high), (0, 2), color=colour,
                  textcoords="offset points", ha="center", fontsize=7.5)  # fmt: skip


def _clean(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10, color=_MUTED, pad=18)  # room for the minutes
    axes.grid(axis="y", color="#E6E8EB", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(PLAYING)
    axes.tick_params(colors=_MUTED, length=0)
