"""``vla-rl doctor``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from vla_rl.commands._doctor import examine_machine


@dataclass(frozen=True)
class Command:
    """Check GL libraries, rendering, torch, cores, memory, disk space and versions."""

    out: Path = Path("runs")
    """Folder where runs would be written."""

    def run(self) -> int:
        """Print all findings; the exit status is 1 if something must be fixed."""
        console = Console()
        checks = examine_machine(self.out)
        for check in checks:
            mark = "[green]ok [/green]" if check.ok else "[red]BAD[/red]"
            console.print(f"{mark}  [bold]{check.name:<14}[/bold] {check.found}", highlight=False)
            if check.advice:
                console.print(f"     {'':<14} [yellow]{check.advice}[/yellow]", highlight=False)
        bad = [check.name for check in checks if not check.ok]
        console.print(f"[red]to fix: {', '.join(bad)}[/red]" if bad else "[green]ready[/green]")
        return 1 if bad else 0
