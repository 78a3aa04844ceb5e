"""``vla-rl check``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vla_rl.contract import algorithm as of_algorithms
from vla_rl.contract import policy as of_policies
from vla_rl.contract.suite import Subject, examine
from vla_rl.stages.setup import plain_settings
from vla_rl.types import Check
from vla_rl.world import World


@dataclass(frozen=True)
class Command:
    """Check that a suite keeps the contract (seeds, snapshots, frames, ...), and say what to fix.

    The suite may be given first, without `--env`: `vla-rl check gym:CartPole-v1`. With `--network`
    or `--algorithm`, a policy or an algorithm is checked instead.
    """

    world: World = field(default_factory=lambda: World(tasks=("all",), max_steps=None))
    """Suite, tasks, cameras and horizon."""
    seeds: int = 10
    """Number of starts to check per task; at least 1."""
    limit: int = 2
    """Largest number of tasks to make environments of where `--tasks` is `all`: the first of each
    difficulty bucket, then the others; at least 1."""
    network: str | None = None
    """Check this policy instead, a name or a dotted path, made for the observations and actions of
    the suite. Nothing is simulated."""
    net: Any = None
    """Settings of the policy."""
    algorithm: str | None = None
    """Check this algorithm instead, a name or a dotted path. Nothing is simulated."""
    algo: Any = None
    """Settings of the algorithm."""

    def run(self) -> int:
        """Print all findings; the exit status is 1 if something must be fixed."""
        console = Console()
        fine = [_report(console, name, found) for name, found in self._examined()]
        return 0 if all(fine) else 1

    def _examined(self) -> Iterator[tuple[str, Iterable[tuple[str, Check]]]]:
        """Name of what is checked, and what was found: the task, or "", and the finding."""
        if self.network is not None:
            settings, spaces = plain_settings(self.network, self.net), self.world.resolve().spaces
            policy = of_policies.Subject(self.network, settings, spaces)
            yield self.network, (("", check) for check in of_policies.examine(policy))
        if self.algorithm is not None:
            algorithm = of_algorithms.Subject(self.algorithm, self.algo)
            yield self.algorithm, (("", check) for check in of_algorithms.examine(algorithm))
        if self.network is None and self.algorithm is None:
            suite = Subject(**vars(self.world), seeds=self.seeds, limit=self.limit)
            yield suite.suite, examine(suite)


def _report(console: Console, name: str, found: Iterable[tuple[str, Check]]) -> bool:
    """Print what was found, as it is found; returns whether nothing must be fixed."""
    bad, section = [], ""
    for task, check in found:
        if task != section:
            console.print(f"\n[bold]{task}[/bold]", highlight=False)
            section = task
        console.print(_row(check))
        if not check.ok:
            bad.append(f"{check.name} of {task}" if task else check.name)
    console.print(
        f"\n[red]to fix: {', '.join(bad)}[/red]"
        if bad
        else f"\n[green]{name} keeps the contract[/green]",
        highlight=False,
    )
    return not bad


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
