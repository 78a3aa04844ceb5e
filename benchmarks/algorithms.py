"""Every algorithm from one clone, on the same tasks, with the same number of environment steps.

They share rollouts, policy, masks, optimizer, the anchor to the demonstrations and uniform sampling
of starts; each has its own defaults for what its paper is about. Success is measured on starts that
were never trained on, within the horizon of training and with time to spare.

    python -m benchmarks.algorithms [--seeds 3] [--env-steps 200000] [--out runs/algorithms]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks._markdown import if_one_horizon, origin, percent, table, usual_length, within
from benchmarks._record import RESULTS, write
from benchmarks._runs import GENEROUS, both, cloned, column, evaluated, trained
from vla_rl import plugins
from vla_rl.results.aggregate import LabelSummary, Score, summarise
from vla_rl.results.curves import draw_curves
from vla_rl.results.evaluation import EvalResult
from vla_rl.results.intervals import mean_interval
from vla_rl.results.run_folders import group, read_run

WORLD = (
    *("--tasks", "drawer-open-v3", "door-open-v3", "push-v3"),
    *("--max-steps", "100", "90", "90"),
)
DEMOS = ("2", "2", "10")
CLONE_SEED = 1
THRESHOLD = 0.6  # training success that counts as learnt


def one(folder: Path, start: Path, algorithm: str, seed: int, env_steps: int) -> EvalResult:
    """Train and evaluate."""
    shared = ("--anchor.coef", "10", "--curriculum", "uniform", "--train.checkpoint-every", "1000")
    budget = ("--train.env-steps", str(env_steps))
    return trained(folder, start, seed, "--algorithm", algorithm, *shared, *budget)


def describe(
    summary: LabelSummary, folders: list[Path], results: list[EvalResult]
) -> dict[str, Any]:
    """Numbers of one algorithm."""
    medians = [r.median_steps for r in results if r.median_steps is not None]
    return {
        **_over_seeds([both(r)[0] for r in results]),
        "generous": _over_seeds([both(r)[1] for r in results]),
        "solved_steps": _numbers(summary.solved_steps),
        "median_steps": fmean(medians) if len(medians) == len(results) else None,
        "train_success": _numbers(summary.final),
        "env_steps_to_threshold": summary.steps_to_threshold,
        "seeds_that_reached_it": len(summary.reached),
        "gradient_steps": [sum(column(f, "actor/updates")) for f in folders],
        "seconds": [sum(column(f, "time/total")) for f in folders],
        "time_split": summary.shares,
    }


def _over_seeds(results: list[EvalResult]) -> dict[str, Any]:
    """Mean over seeds with Student's t interval."""
    return {
        "held_out": list(mean_interval([r.mean.value for r in results])),
        "each_seed": [r.mean.value for r in results],
        "tasks": {
            task: list(mean_interval([r.tasks[task].rate.value for r in results]))
            for task in results[0].tasks
        },
    }


def _of_clone(result: EvalResult) -> dict[str, Any]:
    return {
        "held_out": list(result.mean),
        "tasks": {task: list(r.rate) for task, r in result.tasks.items()},
        "solved_steps": result.solved_steps,
        "median_steps": result.median_steps,
    }


def _numbers(score: Score | None) -> list[float] | None:
    return None if score is None else [score.value, *(score.interval or ())]


def algorithms(result: dict[str, Any]) -> str:
    """Success, speed and cost by algorithm, best first."""
    tasks = list(result["clone"]["tasks"])
    threshold = f"steps to {result['threshold']:.0%}"
    timed = "generous" in result
    short = within(*result["horizons"]) if timed else "within the horizon of training"
    later = [f"success {within(result['generous'])}"] if timed else []
    steps = "median steps when solved" if timed else "steps when solved"
    costs = [steps, threshold, "gradient steps", "update"]
    rows = [["algorithm", f"success {short}", *tasks, *later, *costs]]

    def with_time(found: dict[str, Any]) -> list[str]:
        return [percent(found["generous"]["held_out"])] if timed else []

    clone = result["clone"]
    each = [percent(clone["tasks"][task]) for task in tasks]
    numbers = [percent(clone["held_out"]), *each, *with_time(clone), usual_length(clone)]
    rows.append(["clone", *numbers, "", "", ""])
    count = result["seeds"]
    for name, found in sorted(
        result["algorithms"].items(), key=lambda item: -item[1]["held_out"][0]
    ):
        reached = found["env_steps_to_threshold"]
        when = f"{reached / 1000:.0f}k ({found['seeds_that_reached_it']} of {count})"
        rows.append(
            [
                f"`{name}`",
                f"**{percent(found['held_out'])}**",
                *(percent(found["tasks"][task]) for task in tasks),
                *with_time(found),
                usual_length(found),
                when if reached else "-",
                f"{sum(found['gradient_steps']) / count:,.0f}",
                f"{found['time_split']['update']:.0%}",
            ]
        )
    note = (
        f"{count} seeds each, {result['env_steps']:,} environment steps of RL, all from one clone; "
        "100 held-out starts of each task; mean over seeds with Student's t interval (clone: over "
        f"starts). {threshold}: environment steps until training success, smoothed over 5 "
        "iterations, first reached it. Update: its share of the wall time. "
        f"{if_one_horizon(result)}{origin(result)}"
    )
    figure = "![Learning curves of every algorithm](../../benchmarks/results/algorithms.png)"
    return f"{table(*rows)}\n\n{note}\n\n{figure}"


TABLES = {"algorithms": algorithms}
"""What writes the tables of results, by their names."""


def main() -> None:
    """Train everything, and write the result and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="at least 2, for intervals")
    parser.add_argument("--env-steps", type=int, default=200_000, help="of every run")
    parser.add_argument("--algorithms", nargs="+", default=plugins.names("algorithms"))
    parser.add_argument("--out", type=Path, default=Path("runs/algorithms"))
    given = parser.parse_args()
    start = cloned(given.out, CLONE_SEED, WORLD, DEMOS)
    before = evaluated(start, given.out / "eval_before.json")
    results: dict[str, list[EvalResult]] = {}
    folders: dict[str, list[Path]] = {}
    for seed in range(given.seeds):  # seeds outside, so that a cut leaves every algorithm alike
        for name in given.algorithms:
            folder = given.out / f"{name}_{seed}"
            result = one(folder, start, name, seed, given.env_steps)
            results.setdefault(name, []).append(result)
            folders.setdefault(name, []).append(folder)
            print(seed, name, f"{result.mean.value:.3f}", flush=True)
    runs = {name: group([read_run(f) for f in folders[name]]) for name in given.algorithms}
    groups = {name: next(iter(of_name.values())) for name, of_name in runs.items()}
    summaries = {s.curve.label: s for s in summarise(groups, window=5, threshold=THRESHOLD)}
    draw_curves(
        [s.curve for s in summaries.values()],
        RESULTS / "algorithms.png",
        f"From one clone, {given.seeds} seeds: {', '.join(before.tasks)}",
    )
    found = {name: describe(summaries[name], folders[name], results[name]) for name in results}
    short, generous = both(before)
    clone = {**_of_clone(short), "generous": _of_clone(generous)}
    horizons = {"horizons": list(short.horizons.values()), "generous": GENEROUS}
    setting = {
        **horizons,
        "seeds": given.seeds,
        "env_steps": given.env_steps,
        "threshold": THRESHOLD,
    }
    print(write("algorithms", {**setting, "clone": clone, "algorithms": found}))


if __name__ == "__main__":
    main()
