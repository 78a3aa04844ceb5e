"""Which density of correlated exploration noise to learn from, each at its best learning rate.

Exploration noise is correlated within a chunk and constant over an episode in part. Its log-prob
can take every unit by itself (``marginal``: a natural-gradient step in the means), or be the joint
density of a chunk (``chunk``), or that given what is constant over the episode (``episode``); or
nothing is constant, and the joint density of a chunk is all there is to know (``decision``); see
:mod:`vla_rl.action_head`. ``loop`` may learn from any of them, ``ppo`` from the last two. Clone,
starts and budget of a seed are the same for all. Steps of one learning rate are of different sizes,
so each density is run with several, and the one that does best on validation starts is compared;
every run is in the result. Tasks and demonstrations are those of ``vla-rl demo``; success is that
within 200 steps.

    python -m benchmarks.noise_density [--seeds 3] [--rates 1e-4 3e-4] [--env-steps 150000]
        [--out runs/noise_density]
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._markdown import origin, percent, table
from benchmarks._record import write
from benchmarks._runs import GENEROUS, cloned, curve, evaluated, trained
from vla_rl.commands import demo
from vla_rl.results.intervals import mean_interval

TASKS, HORIZONS = demo.Command().world.tasks, demo.Command().world.max_steps or ()
WORLD = ("--tasks", *TASKS, "--max-steps", *map(str, HORIZONS))
DEMOS = tuple(map(str, demo.Command().demos))
ARMS = {
    "loop": ("marginal", "chunk", "decision", "episode"),
    "ppo": ("decision", "episode"),
}


def asking_for(density: str, clone: Path) -> Path:
    """A copy of a clone whose settings ask for a density; the weights are the same."""
    copy = clone.parent.parent / density / "policy"
    if not copy.exists():
        shutil.copytree(clone, copy)
        about = json.loads((clone / "config.json").read_text())
        about["config"]["density"] = density
        (copy / "config.json").write_text(json.dumps(about, indent=2))
    return copy


def one(folder: Path, start: Path, seed: int, *options: str) -> dict[str, Any]:
    """Train, and evaluate on held-out starts."""
    result = trained(folder, start, seed, *options)
    tasks = {task: found.share.value for task, found in result.tasks.items()}
    on_validation = ("--eval.starts", "validation", "--eval.episodes-per-task", "50")
    chosen_by = evaluated(folder / "policy", folder / "validation.json", *on_validation)
    return {
        "success": result.mean.value,
        "validation": chosen_by.mean.value,
        "tasks": tasks,
        "train_success": curve(folder),
    }


def densities(result: dict[str, Any]) -> str:
    """Success by density and learning rate."""
    rows = [["algorithm", "density", "learning rate", "after RL", "each seed", *result["tasks"]]]
    for arm, rates in result["arms"].items():
        for rate, runs in rates.items():
            each = ", ".join(f"{100 * run['success']:.0f}" for run in runs)
            tasks = [
                sum(run["tasks"][task] for run in runs) / len(runs) for task in result["tasks"]
            ]
            label = f"**{rate}**" if rate == result["best_rate"][arm] else rate
            after = percent(result["over_seeds"][arm][rate])
            rows.append([*arm.split(), label, after, each, *(f"{share:.0%}" for share in tasks)])
    clones = ", ".join(f"{100 * value:.0f}" for value in result["clones"])
    note = (
        f"Success within {result['horizon']} steps; clones of the seeds: {clones} %. "
        f"{result['env_steps']:,} environment steps of RL. Bold: the best rate of a line's "
        f"algorithm and density, chosen on validation starts. "
        f"Intervals over seeds (Student's t). {origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


TABLES = {"densities": densities}
"""What writes the tables of results, by their names."""


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="at least 2, for intervals")
    parser.add_argument("--rates", nargs="+", default=["1e-4", "3e-4"])
    parser.add_argument("--env-steps", type=int, default=150_000, help="of every run")
    parser.add_argument("--out", type=Path, default=Path("runs/noise_density"))
    given = parser.parse_args()
    before = []
    arms: dict[str, dict[str, list[Any]]] = {
        f"{algorithm} {density}": {rate: [] for rate in given.rates}
        for algorithm, densities in ARMS.items()
        for density in densities
    }
    for seed in range(given.seeds):  # seeds outside, so that a cut leaves every arm alike
        here = given.out / f"seed{seed}"
        clone = cloned(here, seed, WORLD, DEMOS)
        before.append(evaluated(clone, here / "eval_before.json").mean.value)
        for arm, rates in arms.items():
            algorithm, density = arm.split()
            start = asking_for(density, clone)
            for rate, found in rates.items():
                folder = here / f"{algorithm}_{density}_{rate}"
                budget = ("--train.env-steps", str(given.env_steps), "--learner.lr", rate)
                found.append(one(folder, start, seed, "--algorithm", algorithm, *budget))
                print(seed, arm, rate, found[-1], flush=True)
    over_seeds = {
        arm: {
            rate: list(mean_interval([run["success"] for run in found]))
            for rate, found in rates.items()
        }
        for arm, rates in arms.items()
    }
    best = {
        arm: max(rates, key=lambda rate: float(np.mean([s["validation"] for s in rates[rate]])))
        for arm, rates in arms.items()
    }
    whole = {
        "tasks": list(TASKS),
        "horizon": GENEROUS,
        "env_steps": given.env_steps,
        "clones": before,
        "arms": arms,
        "over_seeds": over_seeds,
        "best_rate": best,
    }
    print(write("densities", whole))


if __name__ == "__main__":
    main()
