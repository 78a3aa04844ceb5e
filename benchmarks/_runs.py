"""Runs of the commands, for benchmarks that train; a run that is already there is not repeated.

Policies are evaluated at a generous horizon, which also gives their success within the one that
they were trained for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vla_rl.cli import main as vla_rl
from vla_rl.results.evaluation import EvalResult, compare
from vla_rl.results.metrics import FILE, read_metrics

GENEROUS = 200
"""Environment steps of an evaluation; a task that takes an expert 80 can be solved in its time."""


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
    folder: Path,
    start: Path,
    seed: int,
    *options: str,
    evaluation: tuple[str, ...] = (),
    max_steps: int = GENEROUS,
) -> EvalResult:
    """Train from a clone of :func:`cloned` with its demonstrations at hand, and evaluate.

    Args:
        folder: Of the run.
        start: The clone.
        seed: Of the run.
        options: Of the training.
        evaluation: Options of the evaluation.
        max_steps: Its horizon; 0 for that of training.

    Returns:
        Success on held-out starts, also written to ``folder/eval_after.json``.
    """
    if not (folder / "policy").exists():
        demos = start.parent.parent / "demos"
        words = ("--policy", start, "--demos", demos, "--seed", str(seed), "--out", folder)
        if (folder / "config.json").exists():
            command("train", "--out", folder, "--resume")
        else:
            command("train", *words, "--train.iterations", "100000", *options)
    return evaluated(
        folder / "policy", folder / "eval_after.json", *evaluation, max_steps=max_steps
    )


def evaluated(policy: Path, result: Path, *options: str, max_steps: int = GENEROUS) -> EvalResult:
    """Success of a policy on held-out starts, evaluated again if it was at another horizon.

    Args:
        policy: Its folder.
        result: Where the result is or goes.
        options: Of the evaluation.
        max_steps: Its horizon; 0 for that of training.
    """
    if result.exists():
        known = EvalResult.from_json(result.read_text())
        if max_steps in (0, known.horizon):
            return known
    horizon = ("--eval.max-steps", str(max_steps))
    command("eval", "--policy", policy, "--out", result, *horizon, *options)
    return EvalResult.from_json(result.read_text())


def both(result: EvalResult) -> tuple[EvalResult, EvalResult]:
    """The result within the horizon of training and within the generous one."""
    each = result.each_horizon()
    return each[0], each[-1]


def changes(before: EvalResult, after: EvalResult) -> dict[str, Any]:
    """Success before and after RL by task and on the mean, with intervals and the difference.

    Steps are those of solved episodes: mean, and median.
    """
    change = compare(before, after)
    return {
        "protocol_id": before.protocol_id,
        "tasks": {
            task: {
                "before": list(was.rate),
                "after": list(after.tasks[task].rate),
                "difference": list(change.tasks[task]),
                "steps": [was.solved_steps, after.tasks[task].solved_steps],
                "median_steps": [was.median_steps, after.tasks[task].median_steps],
            }
            for task, was in before.tasks.items()
        },
        "mean": {
            "before": list(before.mean),
            "after": list(after.mean),
            "difference": list(change.mean),
        },
    }


def column(folder: Path, name: str) -> list[float]:
    """A metric of every iteration of a run that logged it."""
    rows = read_metrics(folder / FILE)
    return [float(row[name]) for row in rows if name in row]


def curve(folder: Path, pieces: int = 5, name: str = "train/success") -> list[float]:
    """A metric of a run, training success by default, in equal pieces of its iterations."""
    return [float(part.mean()) for part in np.array_split(column(folder, name), pieces)]
