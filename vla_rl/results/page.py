"""The summary page of a run, with learning curve, before/after video and results."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vla_rl.results.evaluation import (
    EvalResult,
    TaskResult,
    compare,
    comparison_rows,
    horizon_text,
    paired_horizons,
)
from vla_rl.results.intervals import Estimate, PairedDifference
from vla_rl.results.plots import PALETTE, measure


@dataclass(frozen=True)
class PageContent:
    """Content of the summary page of a run.

    Attributes:
        title: Title, for instance the name of the run.
        facts: Short description of the run: names and values in order (policy, algorithm, ...).
        before: Evaluation before training.
        after: Evaluation after training, under the same protocol.
        seconds: Wall time by part, in order.
        files: Description of each file or folder of the run, by path relative to the page.
        commands: Next steps: what a command does, and the command line.
    """

    title: str
    facts: Mapping[str, str]
    before: EvalResult
    after: EvalResult
    seconds: Mapping[str, float]
    files: Mapping[str, str]
    commands: Mapping[str, str]


def summary_page(
    summary: PageContent, path: Path, plot: Path | None = None, video: Path | None = None
) -> None:
    """Write a self-contained HTML page; plot and video are embedded.

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
        _section("Next steps", _command_list(summary.commands)),
    ]
    page = _PAGE.replace("{title}", _text(summary.title)).replace("{body}", "\n".join(parts))
    path.write_text(page, encoding="utf-8")


Pairs = Sequence[tuple[EvalResult, EvalResult]]


def _headline(before: EvalResult, after: EvalResult, timed: bool) -> str:
    change = compare(before, after).mean
    tasks = len(before.tasks)
    of = "the task" if tasks == 1 else f"{tasks} tasks"
    when = f" {horizon_text(before)}" if timed else ""
    return (
        f'<p class="headline"><b>{_percent(before.mean.value)} → {_percent(after.mean.value)}</b> '
        f"mean {measure(before)} on {of}{when}: {_points(change)} on the same starts "
        f"({_p_value(change)})</p>"
    )


def _results_table(summary: PageContent, pairs: Pairs) -> str:
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
    heads = "".join(f'<th colspan="4">{_text(horizon_text(was))}' for was, _ in pairs)
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


def _row_names(summary: PageContent) -> list[tuple[str, str, str]]:
    """Name, kind and lengths of solved episodes of every row."""
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
