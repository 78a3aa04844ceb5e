"""``vla-rl list``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from vla_rl import plugins

Kind = Literal[
    "all", "tasks", "envs", "policies", "algorithms", "rewards", "curricula", "protocols"
]


@dataclass(frozen=True)
class Command:
    """List suites, tasks, policies, algorithms, rewards, curricula and protocols."""

    kind: Annotated[Kind, tyro.conf.Positional] = "all"
    """Kind of names to list."""
    suite: Annotated[str, tyro.conf.arg(aliases=["--env"])] = "metaworld"
    """Suite whose tasks and protocols are listed."""

    def run(self) -> int:
        """Print the lists."""
        console = Console()
        for kind in plugins.REQUIRED_NAMES:
            if self.kind in ("all", kind):
                console.print(_plugins(kind))
        suite = plugins.load("envs", self.suite)
        if self.kind in ("all", "protocols"):
            table = _table(f"protocols of {self.suite}", "name", "episodes per task", "max steps")
            for protocol in vars(suite).get("PROTOCOLS", {}).values():
                table.add_row(
                    protocol.name, str(protocol.episodes_per_task), str(protocol.max_steps)
                )
            console.print(table)
        if self.kind in ("all", "tasks"):
            for table in _tasks(suite, self.suite):
                console.print(table)
        return 0


def _plugins(kind: str) -> Table:
    table = _table(kind, "name", "what it is")
    for name in plugins.names(kind):
        first = (plugins.load(kind, name).__doc__ or "").strip().splitlines()[0]
        table.add_row(name, first)
    return table


def _tasks(suite: ModuleType, name: str) -> Iterator[Table]:
    """The tasks, and the splits where the suite has any."""
    names = vars(suite)
    buckets, variants = names.get("BUCKETS", {}), names.get("VARIANTS", {})
    columns = ("id", "instruction", "difficulty", *(("variant of",) if variants else ()))
    table = _table(f"tasks of {name}", *columns)
    for task in suite.tasks():
        bucket = next((title for title, ids in buckets.items() if task.id in ids), "")
        row = (task.id, task.instruction, bucket, variants.get(task.id, ""))
        table.add_row(*row[: len(columns)])
    yield table
    if "SPLITS" in names:
        table = _table(f"splits of {name}", "name", "number", "tasks")
        for title, ids in suite.SPLITS.items():
            table.add_row(title, str(len(ids)), " ".join(ids))
        yield table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table
