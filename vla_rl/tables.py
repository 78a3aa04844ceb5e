"""Tables for the terminal: evaluations, comparisons, demonstrations."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from vla_rl.demos import DemoSet
from vla_rl.statistics import Estimate, EvalResult, PairedDifference, compare, mean_over_tasks


def show_evaluation(result: EvalResult) -> None:
    """Print success by task, bucket and on the mean, with 95 % intervals."""
    table = Table(title=f"protocol {result.protocol_id}", title_justify="left")
    for column in ("task", "success", "95 % interval", "episodes", "steps when solved"):
        table.add_column(column)
    for name, task in result.tasks.items():
        rate = task.rate
        count = f"{task.successes}/{task.episodes}"
        table.add_row(name, *_shown(rate), count, _steps(task.solved_steps))
    for name, mean in result.bucket_means().items():
        table.add_row(f"bucket {name}", *_shown(mean), "", "")
    if len(means := list(result.bucket_means().values())) > 1:
        table.add_row("mean of buckets", *_shown(mean_over_tasks(means)), "", "")
    table.add_row("mean over tasks", *_shown(result.mean), "", _steps(result.solved_steps))
    Console().print(table)


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
    rows = [(name, before.tasks[name].rate, after.tasks[name].rate) for name in before.tasks]
    for (name, old, new), paired in zip(rows, change.tasks.values(), strict=True):
        table.add_row(name, " ".join(_shown(old)), " ".join(_shown(new)), *_change(paired))
    means = (" ".join(_shown(before.mean)), " ".join(_shown(after.mean)))
    table.add_row("mean over tasks", *means, *_change(change.mean))
    Console().print(table)


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
