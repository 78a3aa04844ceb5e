"""Runs of the commands, for benchmarks that train; a run that is already there is not repeated."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vla_rl.cli import main as vla_rl
from vla_rl.metrics import FILE, read_metrics
from vla_rl.statistics import EvalResult


def command(*words: str | Path) -> None:
    """Run a command; stop if it fails."""
    if status := vla_rl([str(word) for word in words]):
        raise SystemExit(status)


def cloned(folder: Path, seed: int, world: tuple[str, ...], demos: tuple[str, ...]) -> Path:
    """The policy cloned from demonstrations of this seed; they are in ``folder/demos``.

    Args:
        folder: Where both go.
        seed: Of demonstrations and weights.
        world: Options that name tasks and horizons.
        demos: Demonstrations of each task.
    """
    policy = folder / "sft" / "policy"
    if not policy.exists():
        tasks = world[: world.index("--max-steps")]  # the experts take the time they need
        first = ("--first", str(100 * seed))
        command("record", *tasks, "--episodes", *demos, *first, "--out", folder / "demos")
        learn = (*world, "--seed", str(seed))
        command("sft", "--demos", folder / "demos", *learn, "--out", folder / "sft")
    return policy


def trained(
    folder: Path, start: Path, seed: int, *options: str, evaluation: tuple[str, ...] = ()
) -> EvalResult:
    """Train from a clone of :func:`cloned` with its demonstrations at hand, and evaluate.

    Args:
        folder: Of the run.
        start: The clone.
        seed: Of the run.
        options: Of the training.
        evaluation: Options of the evaluation.

    Returns:
        Success on held-out starts, also written to ``folder/eval_after.json``.
    """
    result = folder / "eval_after.json"
    if not result.exists():
        demos = start.parent.parent / "demos"
        words = ("--policy", start, "--demos", demos, "--seed", str(seed), "--out", folder)
        if (folder / "config.json").exists():
            command("train", "--out", folder, "--resume")
        else:
            command("train", *words, "--train.iterations", "100000", *options)
        evaluated(folder / "policy", result, *evaluation)
    return EvalResult.from_json(result.read_text())


def evaluated(policy: Path, result: Path, *options: str) -> EvalResult:
    """Success of a policy on held-out starts."""
    if not result.exists():
        command("eval", "--policy", policy, "--out", result, *options)
    return EvalResult.from_json(result.read_text())


def column(folder: Path, name: str) -> list[float]:
    """A metric of every iteration of a run that logged it."""
    rows = read_metrics(folder / FILE)
    return [float(row[name]) for row in rows if name in row]


def curve(folder: Path, pieces: int = 5) -> list[float]:
    """Training success of a run in equal pieces of its iterations, from first to last."""
    return [float(part.mean()) for part in np.array_split(column(folder, "train/success"), pieces)]
