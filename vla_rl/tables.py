"""Tables for the terminal: evaluations, comparisons, demonstrations."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from vla_rl.demos import DemoSet
from vla_rl.run_folders import kept
from vla_rl.statistics import (
    Estimate,
    EvalResult,
    PairedDifference,
    TaskResult,
    compare,
    comparison_rows,
    estimate,
    mean_over_tasks,
)


def show_evaluation(result: EvalResult) -> None:
    """Print success by task, bucket and on the mean, with 95 % intervals.

    A sequence is told by how many of its parts were completed on the mean, how often at least k of
    them, and how often each: it has no single success.
    """
    table = Table(title=f"protocol {result.protocol_id}", title_justify="left")
    for column in ("task", "success", "95 % interval", "episodes", "steps when solved"):
        table.add_column(column)
    singles = {name: task for name, task in result.tasks.items() if not task.subgoals}
    for name, task in singles.items():
        count = f"{task.successes}/{task.episodes}"
        table.add_row(name, *_shown(task.rate), count, _steps(task.solved_steps))
    if not result.has_sequences:
        _add_means(table, result)
    if singles:
        Console().print(table)
    for name, task in result.tasks.items():
        if task.subgoals:
            Console().print(_of_sequence(name, task, result.protocol_id))


def _add_means(table: Table, result: EvalResult) -> None:
    for name, mean in result.bucket_means().items():
        table.add_row(f"bucket {name}", *_shown(mean), "", "")
    if len(means := list(result.bucket_means().values())) > 1:
        table.add_row("mean of buckets", *_shown(mean_over_tasks(means)), "", "")
    table.add_row("mean over tasks", *_shown(result.mean), "", _steps(result.solved_steps))


def _of_sequence(name: str, task: TaskResult, protocol: str) -> Table:
    parts = len(task.subgoals)
    table = Table(title=f"{name}: {parts} parts, protocol {protocol}", title_justify="left")
    for column in ("measure", "value", "95 % interval", "episodes"):
        table.add_column(column)
    count, low, high = (f"{parts * value:.2f}" for value in task.share)
    episodes = str(task.episodes)
    table.add_row(f"mean completed of {parts}", count, f"[{low}, {high}]", episodes)
    for measure, outcomes in list(task.measures().items())[1:]:  # the first is the share
        table.add_row(measure, *_shown(estimate(outcomes)), f"{sum(outcomes):.0f}/{episodes}")
    return table


def _steps(number: float | None) -> str:
    return "-" if number is None else f"{number:.0f}"


def show_comparison(before: EvalResult, after: EvalResult) -> None:
    """Print before, after and the paired difference by task and on the mean.

    Raises:
        ValueError: If the protocols differ.
    """
    change = compare(before, after)
    table = Table(title=f"protocol {before.protocol_id}", title_justify="left")
    for column in ("task", "before", "after", "difference (95 % interval)", "p"):
        table.add_column(column)
    for name, task in before.tasks.items():
        for row in comparison_rows(name, task, after.tasks[name]):
            values = (" ".join(_shown(row.before)), " ".join(_shown(row.after)))
            table.add_row(row.name, *values, *_change(row.change))
    means = (" ".join(_shown(before.mean)), " ".join(_shown(after.mean)))
    what = "mean completed share" if before.has_sequences else "mean over tasks"
    table.add_row(what, *means, *_change(change.mean))
    Console().print(table)


def show_kept(folder: Path) -> None:
    """Print what validation starts say of the last and the best policy of a run, if anything."""
    for name, words in kept(folder).items():
        print(f"{folder / name} is {words}")


def show_demos(demos: DemoSet) -> None:
    """Print what a set of demonstrations holds."""
    table = Table(title=f"{demos.path}: {len(demos)} episodes of {demos.suite}")
    for column in ("task", "instruction", "episodes", "steps", "success", "sources"):
        table.add_column(column)
    for row in demos.summary():
        sources = ", ".join(f"{name} {count}" for name, count in row.sources.items())
        counts = (str(row.episodes), str(row.steps), f"{row.success:.0%}")
        table.add_row(row.task_id, row.instruction, *counts, sources)
    Console().print(table)


def _shown(estimate: Estimate) -> tuple[str, str]:
    return f"{estimate.value:.1%}", f"[{estimate.low:.1%}, {estimate.high:.1%}]"


def _change(paired: PairedDifference) -> tuple[str, str]:
    points = f"{paired.difference:+.1%} [{paired.low:+.1%}, {paired.high:+.1%}]"
    return points, f"{paired.p_value:.1g}"
