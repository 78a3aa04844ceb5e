"""Do our environments train with Stable-Baselines3's own SAC and PPO, and how fast on one core?

Each environment and algorithm gets a budget of environment steps that takes about two minutes or
less; the experts are then played on held-out starts. Nothing is rendered. Where other programs
share the machine, the time on a core (which includes the evaluation) is a better measure than the
wall time.

    python -m benchmarks.state_expert [--seed 0] [--out runs/state_expert]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._markdown import origin, percent, table
from benchmarks._record import write
from benchmarks._runs import command
from vla_rl.results.evaluation import EvalResult
from vla_rl.results.metrics import FILE, read_metrics

WORLDS: dict[str, tuple[str, ...]] = {
    "drawer-close-v3": ("--tasks", "drawer-close-v3", "--max-steps", "150"),
    # Episodes of 50 steps: SAC with its usual discount of 0.99 learns them more slowly.
    "FetchReachDense-v4": (
        *("--suite", "gym:FetchReachDense-v4", "--env.image", "none"),
        *("--sac.gamma", "0.95", "--ppo.gamma", "0.95"),
    ),
    "button-press-v3": ("--tasks", "button-press-v3", "--max-steps", "150"),
}
STEPS = {
    "drawer-close-v3": {"sac": 25_000, "ppo": 40_000},
    "FetchReachDense-v4": {"sac": 12_000, "ppo": 25_000},
    "button-press-v3": {"sac": 30_000, "ppo": 100_000},
}
LEARNED = 0.8
"""Training success from which on a run counts as having learned its task."""


def one(folder: Path, task: str, algorithm: str, seed: int) -> dict[str, Any]:
    """Train one expert and read how it went."""
    train = ("--algo", algorithm, "--steps", str(STEPS[task][algorithm]), "--seed", str(seed))
    record_none = ("--episodes", "0", "--eval.episodes-per-task", "100")
    began = time.process_time()
    command("expert", *WORLDS[task], *train, *record_none, "--out", folder)
    cpu_seconds = time.process_time() - began
    held_out = EvalResult.from_json((folder / "eval.json").read_text()).tasks[task]
    rows = read_metrics(folder / FILE)
    prefix = f"expert/{task}/"
    rates = [row[f"{prefix}steps_per_second"] for row in rows]
    steps = [row["step"] for row in rows]
    seconds = float((np.diff([0, *steps]) / rates).sum())
    success = [row.get(f"{prefix}success", 0.0) for row in rows]
    return {
        "steps": steps[-1],
        "seconds": round(seconds, 1),
        "steps_per_second": round(steps[-1] / seconds),
        "cpu_seconds": round(cpu_seconds, 1),
        "held_out": list(held_out.rate),
        "episodes": held_out.episodes,
        "steps_until_learned": until_learned(steps, success),
        "train_success": [round(rate, 2) for rate in success[:: max(1, len(rows) // 10)]],
    }


def until_learned(steps: list[int], success: list[float]) -> int | None:
    """Steps from which on training success stays learned; None if it is not at the end.

    The first episodes that end are the solved ones, so that an early high share means nothing.
    """
    too_low = [i for i, rate in enumerate(success) if rate < LEARNED]
    first = too_low[-1] + 1 if too_low else 0
    return steps[first] if first < len(steps) else None


def state_expert(result: dict[str, Any]) -> str:
    """Held-out success of experts that Stable-Baselines3 trained."""
    rows = [["task", "algorithm", "steps", "CPU seconds", "held-out success"]]
    for task, by_algorithm in result["tasks"].items():
        for name, found in by_algorithm.items():
            seconds, steps = f"{found['cpu_seconds']:.0f}", f"{found['steps']:,}"
            rows.append([task, name, steps, seconds, percent(found["held_out"])])
    return f"{table(*rows)}\n\nOne seed, 100 held-out starts. {origin(result)}"


TABLES = {"state_expert": state_expert}
"""What writes the tables of results, by their names."""


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/state_expert"), help="new folder")
    given = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    for task in WORLDS:
        found[task] = {}
        for algorithm in STEPS[task]:
            folder = given.out / f"{task}_{algorithm}_{given.seed}"
            found[task][algorithm] = one(folder, task, algorithm, given.seed)
            print(task, algorithm, found[task][algorithm], flush=True)
    setting = {"seed": given.seed, "learned_means_train_success_of": LEARNED}
    print(write("state_expert", {**setting, "tasks": found}))


if __name__ == "__main__":
    main()
