"""``vla-rl check``."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vla_rl.contract.suite import Subject, examine
from vla_rl.types import Check
from vla_rl.world import World


@dataclass(frozen=True)
class Command:
    """Check that a suite keeps the contract (seeds, snapshots, frames, ...), and say what to fix.

    The suite may be given first, without `--env`: `vla-rl check gym:CartPole-v1`.
    """

    world: World = field(default_factory=lambda: World(tasks=("all",), max_steps=None))
    """Suite, tasks, cameras and horizon."""
    seeds: int = 10
    """Number of starts to check per task; at least 1."""
    limit: int = 2
    """Largest number of tasks to make environments of where `--tasks` is `all`: the first of each
    difficulty bucket, then the others; at least 1."""

    def run(self) -> int:
        """Print all findings; the exit status is 1 if something must be fixed."""
        console = Console()
        subject = Subject(**vars(self.world), seeds=self.seeds, limit=self.limit)
        bad, section = [], ""
        for task, check in examine(subject):
            if task != section:
                console.print(f"\n[bold]{task}[/bold]", highlight=False)
                section = task
            console.print(_row(check))
            if not check.ok:
                bad.append(f"{check.name} of {task}" if task else check.name)
        console.print(
            f"\n[red]to fix: {', '.join(bad)}[/red]"
            if bad
            else f"\n[green]{subject.suite} keeps the contract[/green]",
            highlight=False,
        )
        return 1 if bad else 0


def _row(check: Check) -> Table:
    """Table row of one check; long findings and advice are wrapped in their columns."""
    if not check.ok:
        mark = "[red]BAD[/red]"
    else:
        mark = "[yellow]note[/yellow]" if check.advice else "[green]ok[/green]"
    row = Table.grid(padding=(0, 2))
    row.add_column(width=4)
    row.add_column(width=17, style="bold")
    row.add_column()
    row.add_row(mark, check.name, Text(check.found))
    if check.advice:
        row.add_row("", "", Text(check.advice, style="yellow"))
    return row
