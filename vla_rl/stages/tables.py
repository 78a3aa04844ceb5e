"""Tables for the terminal: evaluations, comparisons, demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vla_rl.demos.demo_set import DemoSet
from vla_rl.results.evaluation import (
    EvalResult,
    TaskResult,
    compare,
    comparison_rows,
    horizon_text,
    paired_horizons,
)
from vla_rl.results.intervals import Estimate, PairedDifference, estimate, mean_over_tasks
from vla_rl.results.run_folders import kept_policies

MEDIAN = "steps when solved (median)"


def show_evaluation(result: EvalResult) -> None:
    """Print success by task, by bucket and on average, with 95 % intervals.

    There is a column for every horizon at which success is reported, and one for the median length
    of solved episodes. A sequence has no single success rate; instead there are the mean number of
    completed parts, how often at least k parts were completed, and how often each part was.
    """
    each = result.each_horizon()
    table = Table(title=f"protocol {result.protocol_id}", title_justify="left")
    for column in ("task", *map(horizon_text, each), "episodes", MEDIAN):
        table.add_column(column)
    singles = [name for name, task in result.tasks.items() if not task.subgoals]
    for name in singles:
        task = result.tasks[name]
        rates = (_shown(found.tasks[name].rate) for found in each)
        table.add_row(name, *rates, str(task.episodes), _steps(task.median_steps))
    if not result.has_sequences:
        _add_means(table, each)
    if singles:
        Console().print(table)
    for name, task in result.tasks.items():
        if task.subgoals:
            Console().print(_of_sequence(name, task, result.protocol_id))


def _add_means(table: Table, each: Sequence[EvalResult]) -> None:
    buckets = [found.bucket_means() for found in each]
    for name in buckets[-1]:
        table.add_row(f"bucket {name}", *(_shown(means[name]) for means in buckets), "", "")
    if len(buckets[-1]) > 1:
        means = (_shown(mean_over_tasks(of_each.values())) for of_each in buckets)
        table.add_row("mean of buckets", *means, "", "")
    means = (_shown(found.mean) for found in each)
    table.add_row("mean over tasks", *means, "", _steps(each[-1].median_steps))


def _of_sequence(name: str, task: TaskResult, protocol: str) -> Table:
    parts = len(task.subgoals)
    table = Table(title=f"{name}: {parts} parts, protocol {protocol}", title_justify="left")
    for column in ("measure", "value", "episodes"):
        table.add_column(column)
    count, low, high = (f"{parts * value:.2f}" for value in task.share)
    episodes = str(task.episodes)
    table.add_row(f"mean completed of {parts}", f"{count} [{low}, {high}]", episodes)
    for measure, outcomes in list(task.measures().items())[1:]:  # the first is the share
        table.add_row(measure, _shown(estimate(outcomes)), f"{sum(outcomes):.0f}/{episodes}")
    return table


def show_comparison(before: EvalResult, after: EvalResult) -> None:
    """Print before, after and the paired difference, by task and on average.

    There is a table for every horizon at which success of either is reported; the last one also has
    the median length of solved episodes.

    Raises:
        ValueError: If the protocols differ.
    """
    for was, now in paired_horizons(before, after):
        Console().print(_comparison(was, now, with_steps=was is before))


def _comparison(before: EvalResult, after: EvalResult, with_steps: bool) -> Table:
    change = compare(before, after)
    table = Table(
        title=f"{horizon_text(before)}, protocol {before.protocol_id}", title_justify="left"
    )
    columns = ("task", "before", "after", "difference (95 % interval)", "p")
    for column in (*columns, MEDIAN) if with_steps else columns:
        table.add_column(column)

    def add(
        name: str, was: Estimate, now: Estimate, change: PairedDifference, steps: str = ""
    ) -> None:
        cells = (name, _shown(was), _shown(now), *_change(change))
        table.add_row(*cells, *([steps] if with_steps else []))

    for name, task in before.tasks.items():
        lengths = _lengths(task, after.tasks[name])
        for row in comparison_rows(name, task, after.tasks[name]):
            add(row.name, row.before, row.after, row.change, lengths if row.kind == "task" else "")
    what = "mean completed share" if before.has_sequences else "mean over tasks"
    add(what, before.mean, after.mean, change.mean, _lengths(before, after))
    return table


def _lengths(before: TaskResult | EvalResult, after: TaskResult | EvalResult) -> str:
    return f"{_steps(before.median_steps)} → {_steps(after.median_steps)}"


def _steps(number: float | None) -> str:
    return "-" if number is None else f"{number:.0f}"


def show_kept_policies(folder: Path) -> None:
    """Print validation success of the last and the best policy of a run, if it was evaluated."""
    for name, words in kept_policies(folder).items():
        print(f"{folder / name} is {words}")


def show_demos(demos: DemoSet) -> None:
    """Print a summary of a set of demonstrations."""
    table = Table(title=f"{demos.path}: {len(demos)} episodes of {demos.suite}")
    for column in ("task", "instruction", "episodes", "steps", "success", "sources"):
        table.add_column(column)
    for row in demos.summary():
        sources = ", ".join(f"{name} {count}" for name, count in row.sources.items())
        counts = (str(row.episodes), str(row.steps), f"{row.success:.0%}")
        table.add_row(row.task_id, row.instruction, *counts, sources)
    Console().print(table)


def _shown(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} [{estimate.low:.1%}, {estimate.high:.1%}]"


def _change(paired: PairedDifference) -> tuple[str, str]:
    points = f"{paired.difference:+.1%} [{paired.low:+.1%}, {paired.high:+.1%}]"
    return points, f"{paired.p_value:.1g}"
