"""The main job from several seeds: success before and after RL on starts never trained on.

Each seed has its own demonstrations, initial weights, training starts and noise; all are evaluated
on the same starts.

    python -m benchmarks.main_job [--seeds 3] [--out runs/main_job]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks._record import write
from vla_rl.cli import main as vla_rl
from vla_rl.statistics import EvalResult, compare, mean_interval


def one_seed(folder: Path, seed: int) -> dict[str, Any]:
    """Run the demo, and read what it found."""
    began = time.perf_counter()
    status = vla_rl(["demo", "--seed", str(seed), "--out", str(folder)])
    if status:
        raise SystemExit(status)
    before, after = (
        EvalResult.from_json((folder / f"eval_{when}.json").read_text())
        for when in ("before", "after")
    )
    change = compare(before, after)
    return {
        "seed": seed,
        "seconds": time.perf_counter() - began,
        "protocol_id": before.protocol_id,
        "tasks": {
            task: {
                "before": list(before.tasks[task].rate),
                "after": list(after.tasks[task].rate),
                "difference": list(change.tasks[task]),
                "steps": [before.tasks[task].solved_steps, after.tasks[task].solved_steps],
            }
            for task in before.tasks
        },
        "mean": {
            "before": list(before.mean),
            "after": list(after.mean),
            "difference": list(change.mean),
        },
    }


def over_seeds(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over seeds with Student's t interval, by task and on the mean over tasks."""
    if len(seeds) < 2:
        return {}

    def summary(pick: Any) -> dict[str, Any]:
        return {
            when: list(mean_interval([pick(seed)[when][0] for seed in seeds]))
            for when in ("before", "after", "difference")
        }

    tasks = {task: summary(lambda s, task=task: s["tasks"][task]) for task in seeds[0]["tasks"]}
    return {"tasks": tasks, "mean": summary(lambda s: s["mean"])}


def main() -> None:
    """Run every seed and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/main_job"))
    given = parser.parse_args()
    seeds = [one_seed(given.out / f"seed{seed}", seed) for seed in range(given.seeds)]
    config = json.loads((given.out / "seed0" / "config.json").read_text())
    result = {"config": config, "seeds": seeds, "over_seeds": over_seeds(seeds)}
    print(write("main_job", result))


if __name__ == "__main__":
    main()
