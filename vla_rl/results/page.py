"""What a run leaves for people: a learning curve, a before/after video, and a page on all of it."""

from __future__ import annotations

import base64
import html
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vla_rl.results.evaluation import (
    Estimate,
    EvalResult,
    PairedDifference,
    TaskResult,
    compare,
    comparison_rows,
    paired_horizons,
    within,
)
from vla_rl.results.metrics import outcome, outcomes_by_task

# Okabe and Ito's palette, which people with every kind of colour vision can tell apart.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SUCCESS, FAILURE, PLAYING = "#009E73", "#D55E00", "#C8CCD2"
_INK, _MUTED, _MEAN = "#24292F", "#6E7781", "#24292F"
_MARKERS = "osD^vP"

Frames = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]

# --------------------------------------------------------------------------------- learning curve


def learning_curve(
    rows: Sequence[Mapping[str, Any]],
    before: EvalResult | None,
    after: EvalResult | None,
    path: Path,
) -> None:
    """Draw success over environment steps, between the evaluations before and after.

    Evaluations on validation starts during training are open marks. With more tasks than colours,
    single tasks are grey and only their mean stands out.

    Args:
        rows: Of ``metrics.jsonl``; used are ``train/env_steps``, success or completed share of the
            iteration and of each task (missing where a task was not played), the same under
            ``validation/``, and ``time/total`` (seconds of the iteration). Rows of other stages are
            passed over.
        before: Evaluation of the policy that training began with, if there was one.
        after: Evaluation of the policy that training ended with, if there was one.
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
    left.set_ylabel(_measure(before, after), color=_INK)
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
    """Every task that was trained or evaluated, in the order of the evaluation."""
    evaluated = chain.from_iterable(result.tasks for result in results if result is not None)
    trained = (task for row in rows for task in outcomes_by_task(row))
    return list(dict.fromkeys([*evaluated, *trained]))


def _measure(*results: EvalResult | None) -> str:
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
    """An open mark for every evaluation: of each task where they have colours, and of the mean."""
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
    """Mean over neighbours, a tenth of the curve on the whole; shorter windows at the ends."""
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
    """The first of 1, 2, 5, 10, ... (times a power of ten) that is not below the value."""
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


# ------------------------------------------------------------------------------------------ video


@dataclass(frozen=True)
class Clip:
    """One filmed episode.

    Attributes:
        frames: ``[t]`` frames, each ``[h, w, 3]`` uint8; at least one.
        success: How it ended.
    """

    frames: Frames
    success: bool


_CELL, _BORDER, _GAP, _BAND, _COLUMNS = 224, 4, 8, 22, 5


def before_after_video(
    before: Sequence[Clip], after: Sequence[Clip], labels: Sequence[str], path: Path, fps: int = 20
) -> None:
    """Write clips side by side as an mp4: a column for each task, before above after.

    A clip that ended holds its last frame, with a border and a word for success or failure.

    Args:
        before: One clip for each label.
        after: One clip for each label.
        labels: Names of the tasks; more than five start a new pair of rows.
        path: The mp4 to write.
        fps: Frames per second.

    Raises:
        ValueError: If the numbers differ or are zero, or a clip has no frames.
    """
    if not len(before) == len(after) == len(labels) > 0:
        raise ValueError(
            "a video needs a clip before and after for every label, got "
            f"{len(before)}, {len(after)} and {len(labels)} labels"
        )
    if not all(len(clip.frames) for clip in (*before, *after)):
        raise ValueError("every clip of a video needs at least one frame")
    length = max(len(clip.frames) for clip in (*before, *after)) + fps  # hold the end for a second
    pictures = (_picture(before, after, labels, t) for t in range(length))
    temporary = path.with_name(f".{path.name}.new.mp4")
    _encode(pictures, temporary, fps)
    os.replace(temporary, path)


def _encode(pictures: Iterator[Image.Image], path: Path, fps: int) -> None:
    first = next(pictures)
    writer = imageio_ffmpeg.write_frames(
        str(path),
        first.size,
        fps=fps,
        codec="libx264",
        macro_block_size=2,
        quality=None,
        output_params=["-crf", "27", "-preset", "medium", "-movflags", "+faststart"],
    )
    writer.send(None)
    for picture in chain([first], pictures):
        writer.send(picture.tobytes())
    writer.close()


def _picture(
    before: Sequence[Clip], after: Sequence[Clip], labels: Sequence[str], t: int
) -> Image.Image:
    columns = min(len(labels), _COLUMNS)
    blocks = math.ceil(len(labels) / _COLUMNS)
    wide, high = _CELL + 2 * _BORDER + _GAP, _CELL + 2 * _BORDER + _BAND + _GAP
    size = (columns * wide + _GAP, 2 * blocks * high + _GAP)
    picture = Image.new("RGB", size, "white")
    for i, label in enumerate(labels):
        x = _GAP + i % _COLUMNS * wide
        y = _GAP + i // _COLUMNS * 2 * high
        _draw_cell(picture, (x, y), before[i], f"{label} · before", t)
        _draw_cell(picture, (x, y + high), after[i], f"{label} · after", t)
    return picture


def _draw_cell(
    picture: Image.Image, corner: tuple[int, int], clip: Clip, title: str, t: int
) -> None:
    x, y = corner
    ended = t >= len(clip.frames) - 1
    outcome = ("success", SUCCESS) if clip.success else ("failure", FAILURE)
    word, colour = outcome if ended else ("", PLAYING)
    draw = ImageDraw.Draw(picture)
    side = _CELL + 2 * _BORDER
    word_width = draw.textlength(word, font=_BOLD)
    draw.text((x, y), _fitted(draw, title, side - word_width - 6), fill=_INK, font=_PLAIN)
    draw.text((x + side - word_width, y), word, fill=colour, font=_BOLD)
    draw.rectangle((x, y + _BAND, x + side - 1, y + _BAND + side - 1), fill=colour)
    frame = Image.fromarray(np.asarray(clip.frames[min(t, len(clip.frames) - 1)]))
    resized = frame.resize((_CELL, _CELL), Image.Resampling.LANCZOS)
    picture.paste(resized, (x + _BORDER, y + _BAND + _BORDER))


_PLAIN = ImageFont.load_default(13)
_BOLD = ImageFont.load_default(14)


def _fitted(draw: ImageDraw.ImageDraw, text: str, width: float) -> str:
    """The text, shortened in its first word so that before or after stays readable."""
    name, _, ending = text.rpartition(" · ")
    shown = name
    while shown and draw.textlength(f"{shown} · {ending}", font=_PLAIN) > width:
        shown = shown[:-1]
    return f"{shown if shown == name else shown[:-1] + '…'} · {ending}"


# ------------------------------------------------------------------------------------------- page


@dataclass(frozen=True)
class Summary:
    """What the page of a run shows.

    Attributes:
        title: For instance the name of the run.
        facts: What ran, in short: name and value in the order to be shown (policy, algorithm, ...).
        before: Evaluation before training.
        after: Evaluation after training, under the same protocol.
        seconds: Wall time by part, in the order to be shown.
        files: What each file or folder of the run is, by path relative to the page.
        commands: How to go on: what a command does, and the command line.
    """

    title: str
    facts: Mapping[str, str]
    before: EvalResult
    after: EvalResult
    seconds: Mapping[str, float]
    files: Mapping[str, str]
    commands: Mapping[str, str]


def summary_page(
    summary: Summary, path: Path, plot: Path | None = None, video: Path | None = None
) -> None:
    """Write one HTML page that needs no other file; plot and video are embedded.

    Raises:
        ValueError: If the two evaluations are not comparable.
    """
    pairs = paired_horizons(summary.before, summary.after)
    parts = [
        f"<h1>{_text(summary.title)}</h1>",
        *(_headline(before, after, len(pairs) > 1) for before, after in pairs),
        _figure(plot, '<img alt="learning curve" src="data:image/png;base64,{}">'),
        _results_table(summary, pairs),
        _figure(video, '<video controls loop muted src="data:video/mp4;base64,{}"></video>'),
        _section("What ran", _definitions(summary.facts)),
        _section("Where the time went", _time_bar(summary.seconds)),
        _section("Files", _definitions(summary.files, code=True)),
        _section("How to go on", _command_list(summary.commands)),
    ]
    page = _PAGE.replace("{title}", _text(summary.title)).replace("{body}", "\n".join(parts))
    path.write_text(page, encoding="utf-8")


Pairs = Sequence[tuple[EvalResult, EvalResult]]


def _headline(before: EvalResult, after: EvalResult, timed: bool) -> str:
    change = compare(before, after).mean
    tasks = len(before.tasks)
    of = "the task" if tasks == 1 else f"{tasks} tasks"
    when = f" {within(before)}" if timed else ""
    return (
        f'<p class="headline"><b>{_percent(before.mean.value)} → {_percent(after.mean.value)}</b> '
        f"mean {_measure(before)} on {of}{when}: {_points(change)} on the same starts "
        f"({_p_value(change)})</p>"
    )


def _results_table(summary: Summary, pairs: Pairs) -> str:
    """Before, after and change at every horizon side by side, and the length of solved episodes."""
    before = summary.before
    columns = [_horizon_rows(was, now) for was, now in pairs]
    lines = []
    for name, kind, steps in _row_names(summary):
        cells = "".join(_cells(of_horizon[name]) for of_horizon in columns)
        lines.append(f'<tr class="{kind}"><td>{_text(name)}{cells}<td>{steps}</tr>')
    episodes = sorted({task.episodes for task in before.tasks.values()})
    note = (
        f"{' or '.join(map(str, episodes))} starts for each task, each played once; 95 % intervals "
        "(Wilson; Newcombe for the paired change; exact sign test). Steps: median length of the "
        "solved episodes of the longest horizon, before and after. Protocol "
        f"<code>{_text(before.protocol_id)}</code>, drawn by {_text(before.renderer or 'unknown')}."
    )
    heads = "".join(f'<th colspan="4">{_text(within(was))}' for was, _ in pairs)
    head = f"<tr><th>{heads}<th></tr>" if len(pairs) > 1 else ""
    head += f"<tr><th>task{'<th>before<th>after<th>change<th>test' * len(pairs)}<th>steps</tr>"
    wide = ' class="wide"' if len(pairs) > 1 else ""
    return f'<table{wide}>{head}{"".join(lines)}</table><p class="note">{note}</p>'


_Values = tuple[Estimate, Estimate, PairedDifference]


def _horizon_rows(before: EvalResult, after: EvalResult) -> dict[str, _Values]:
    """Before, after and change by the name of the row."""
    change = compare(before, after)
    was, now = before.bucket_means(), after.bucket_means()
    return {
        **{
            row.name: (row.before, row.after, row.change)
            for task in before.tasks
            for row in comparison_rows(task, before.tasks[task], after.tasks[task])
        },
        **{f"bucket {n}": (was[n], now[n], change.buckets[n]) for n in change.buckets},
        "mean over tasks": (before.mean, after.mean, change.mean),
    }


def _row_names(summary: Summary) -> list[tuple[str, str, str]]:
    """Name, kind and lengths of solved episodes of every row that is shown."""
    before, after = summary.before, summary.after
    rows: list[tuple[str, str, str]] = []
    for task, was in before.tasks.items():
        for row in comparison_rows(task, was, after.tasks[task]):
            steps = _lengths(was, after.tasks[task]) if row.kind == "task" else ""
            rows.append((row.name, row.kind, steps))
    buckets = before.evaluated_buckets()
    if len(buckets) > 1:
        rows += [(f"bucket {name}", "bucket", "") for name in buckets]
    if len(before.tasks) > 1:
        rows.append(("mean over tasks", "mean", _lengths(before, after)))
    return rows


def _lengths(before: TaskResult | EvalResult, after: TaskResult | EvalResult) -> str:
    each = (found.median_steps for found in (before, after))
    return " → ".join("–" if steps is None else f"{steps:.0f}" for steps in each)


def _cells(values: _Values) -> str:
    before, after, change = values
    better = "better" if change.low > 0 else "worse" if change.high < 0 else ""
    return (
        f'<td>{_with_interval(before)}<td>{_with_interval(after)}<td class="{better}">'
        f"{_points(change)}<td>{_p_value(change)}"
    )


def _with_interval(e: Estimate) -> str:
    return f"{_percent(e.value)} <small>{100 * e.low:.0f}–{100 * e.high:.0f}</small>"


def _points(change: PairedDifference) -> str:
    return (
        f"{100 * change.difference:+.0f} points "
        f"<small>{100 * change.low:+.0f} to {100 * change.high:+.0f}</small>"
    )


def _p_value(change: PairedDifference) -> str:
    return "p &lt; 0.001" if change.p_value < 0.001 else f"p = {change.p_value:.3f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _figure(path: Path | None, tag: str) -> str:
    if path is None:
        return ""
    return f"<figure>{tag.format(base64.b64encode(path.read_bytes()).decode())}</figure>"


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>{content}" if content else ""


def _definitions(pairs: Mapping[str, str], code: bool = False) -> str:
    names = {name: f"<code>{_text(name)}</code>" if code else _text(name) for name in pairs}
    items = "".join(f"<dt>{names[n]}<dd>{_text(value)}" for n, value in pairs.items())
    return f"<dl>{items}</dl>" if items else ""


def _time_bar(seconds: Mapping[str, float]) -> str:
    total = sum(seconds.values())
    if total <= 0:
        return ""
    colours = [PALETTE[i % len(PALETTE)] for i in range(len(seconds))]
    parts = list(zip(seconds.items(), colours, strict=True))
    bar = "".join(f'<i style="flex:{spent / total:.4f};background:{c}"></i>'
                  for (_, spent), c in parts)  # fmt: skip
    legend = "".join(
        f'<span><i style="background:{colour}"></i>{_text(name)} {_duration(spent)} '
        f"<small>{_percent(spent / total)}</small></span>"
        for (name, spent), colour in parts
    )
    return f'<div class="bar">{bar}</div><p class="legend">{legend}</p>'


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _command_list(commands: Mapping[str, str]) -> str:
    return "".join(
        f"<p>{_text(what)}</p><pre>{_text(command)}</pre>" for what, command in commands.items()
    )


def _text(text: str) -> str:
    return html.escape(text)


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #24292f; max-width: 860px; margin: 2em auto;
       padding: 0 1em }
h1 { font-size: 1.6em; margin-bottom: 0 } h2 { font-size: 1.1em; margin: 1.6em 0 .4em }
.headline { font-size: 1.1em } .headline b { font-size: 1.4em }
figure { margin: 1em 0 } img, video { max-width: 100% }
table { border-collapse: collapse; width: 100% } table.wide { font-size: .82em }
th { text-align: left; font-weight: 500; color: #6e7781 }
td, th { padding: .3em .8em .3em 0; border-bottom: 1px solid #e6e8eb }
tr.mean td { font-weight: 600; border-bottom: 0 } tr.bucket td, tr.part td { color: #6e7781 }
small, .note { color: #6e7781; font-weight: 400 } .note { font-size: .87em }
td.better { color: #007a59 } td.worse { color: #b34700 }
code, pre { font: 13px ui-monospace, monospace; background: #f6f8fa; border-radius: 4px }
code { padding: .1em .3em; overflow-wrap: anywhere } pre { padding: .7em 1em; overflow-x: auto }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2em 1.2em; margin: 0 }
dd { margin: 0; color: #57606a }
.bar { display: flex; height: 14px; border-radius: 4px; overflow: hidden }
.legend span { margin-right: 1.2em; white-space: nowrap }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 2px;
            margin-right: .4em }
</style>
<body>
{body}
</body></html>
"""
