"""``vla-rl compare``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vla_rl.results.aggregate import LabelSummary, Score, summarise
from vla_rl.results.curves import draw_curves
from vla_rl.results.evaluation import EvalResult
from vla_rl.results.run_folders import group, read_run
from vla_rl.stages.tables import show_comparison


@dataclass(frozen=True)
class Command:
    """Compare two evaluations, or the learning curves of any number of runs."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Two evaluations (files written by `vla-rl eval` or `vla-rl demo`), the earlier policy first,
    or run folders of `vla-rl train` or `vla-rl demo`. Runs that differ only in their seed are
    averaged."""
    out: Path = Path("runs/compare.png")
    """File for the plot of learning curves (PNG); only for runs."""
    json: Path | None = None
    """File for the numbers, including curves (JSON); only for runs."""
    window: int = 5
    """Number of iterations over which training success is averaged; at least 1."""
    threshold: float = 0.8
    """Training success in (0, 1] for which the steps to reach it are reported."""

    def run(self) -> int:
        """Print the comparison; runs or evaluations that are not comparable are rejected."""
        for path in self.paths:
            if not path.exists():
                raise FileNotFoundError(f"{path} does not exist")
        if len(self.paths) == 2 and all(path.is_file() for path in self.paths):
            show_comparison(*(EvalResult.from_json(path.read_text()) for path in self.paths))
        elif self.paths and all(path.is_dir() for path in self.paths):
            self._compare_runs()
        else:
            files = sum(path.is_file() for path in self.paths)
            raise ValueError(
                "give two evaluations (files), or one or more runs (folders); got "
                f"{files} files and {len(self.paths) - files} folders"
            )
        return 0

    def _compare_runs(self) -> None:
        runs = [read_run(folder) for folder in self.paths]
        found = summarise(group(runs), self.window, self.threshold)
        draw_curves(
            [summary.curve for summary in found], self.out, f"{runs[0].suite}: learning curves"
        )
        _show(found, self.threshold)
        _show_time(found)
        print(f"picture: {self.out}")
        if self.json is not None:
            self.json.parent.mkdir(parents=True, exist_ok=True)
            data = {"suite": runs[0].suite, "window": self.window, "threshold": self.threshold}
            labels = [_to_json(summary) for summary in found]
            self.json.write_text(json.dumps({**data, "labels": labels}, indent=2) + "\n")
            print(f"numbers: {self.json}")


def _show(found: Sequence[LabelSummary], threshold: float) -> None:
    steps = found[0].curve.env_steps[-1]
    table = Table(
        title=f"Train success at {steps:,.0f} environment steps, where the shortest run ends: IQM "
        "over runs and tasks [95 % stratified bootstrap interval]. Held-out success: mean over "
        "runs [95 % t interval]; steps when solved: mean length of its solved episodes.",
        title_justify="left",
    )
    columns = ("label", "runs (seeds)", "env steps", "train success", "held-out success")
    for column in (*columns, "steps when solved", f"steps to {threshold:.0%}"):
        table.add_column(column)
    for summary in found:
        held_out, reached = summary.held_out, summary.steps_to_threshold
        length = summary.solved_steps
        count = len(summary.seeds)
        table.add_row(
            escape(summary.curve.label),
            f"{count} ({', '.join(map(str, summary.seeds))})",
            " to ".join(f"{n:,}" for n in sorted({min(summary.env_steps), max(summary.env_steps)})),
            _shown(summary.final),
            "-" if held_out is None else _shown(held_out),
            "-" if length is None else f"{length.value:.0f}",
            "-" if reached is None else f"{reached:,.0f} ({len(summary.reached)} of {count})",
        )
    Console().print(table)


def _show_time(found: Sequence[LabelSummary]) -> None:
    parts = list(dict.fromkeys(part for summary in found for part in summary.shares))
    if not parts:
        return
    table = Table(title="Wall time of training", title_justify="left")
    for column in ("label", *parts):
        table.add_column(column)
    for summary in found:
        shares = (summary.shares.get(part) for part in parts)
        cells = ("-" if share is None else f"{share:.0%}" for share in shares)
        table.add_row(escape(summary.curve.label), *cells)
    Console().print(table)


def _shown(score: Score) -> str:
    if score.interval is None:
        return f"{score.value:.1%} (1 run)"
    low, high = score.interval
    return escape(f"{score.value:.1%} [{low:.1%}, {high:.1%}]")


def _to_json(summary: LabelSummary) -> dict[str, Any]:
    curve = summary.curve
    return {
        "label": curve.label,
        "seeds": summary.seeds,
        "env_steps": summary.env_steps,
        "train_success": summary.final._asdict(),
        "held_out_success": summary.held_out and summary.held_out._asdict(),
        "solved_steps": summary.solved_steps and summary.solved_steps._asdict(),
        "steps_to_threshold": summary.steps_to_threshold,
        "runs_that_reached_it": len(summary.reached),
        "wall_time": summary.shares,
        "curve": {
            "env_steps": curve.env_steps.tolist(),
            "success": curve.success.tolist(),
            "low": None if curve.low is None else curve.low.tolist(),
            "high": None if curve.high is None else curve.high.tolist(),
        },
    }
