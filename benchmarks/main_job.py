"""The main job from several seeds: success before and after RL on starts never trained on.

Each seed has its own demonstrations, initial weights, training starts and noise; all are evaluated
on the same starts, once, with time to spare. Success is told within the horizon of training and
within the generous one: the first also counts slowness as failure.

    python -m benchmarks.main_job [--seeds 5] [--out runs/main_job]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks._record import write
from benchmarks._runs import GENEROUS, both, changes, command, evaluated
from vla_rl.results.intervals import mean_interval


def one_seed(folder: Path, seed: int) -> dict[str, Any]:
    """Run the demo, and read what it found."""
    timed = folder / "seconds.json"
    if not timed.exists():
        began = time.perf_counter()
        how = ("--seed", str(seed), "--eval.max-steps", str(GENEROUS), "--out", folder)
        command("demo", *how, *(["--resume"] if (folder / "config.json").exists() else []))
        timed.write_text(json.dumps(time.perf_counter() - began))
    before = evaluated(folder / "sft" / "policy", folder / "eval_before.json")
    after = evaluated(folder / "policy", folder / "eval_after.json")
    (short_before, long_before), (short_after, long_after) = both(before), both(after)
    return {
        "seed": seed,
        "seconds": json.loads(timed.read_text()),
        **changes(short_before, short_after),
        "generous": {"horizon": GENEROUS, **changes(long_before, long_after)},
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
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/main_job"))
    given = parser.parse_args()
    seeds = [one_seed(given.out / f"seed{seed}", seed) for seed in range(given.seeds)]
    config = json.loads((given.out / "seed0" / "config.json").read_text())
    generous = [seed["generous"] for seed in seeds]
    over = over_seeds(seeds) | {"generous": over_seeds(generous)}
    result = {"config": config, "seeds": seeds, "over_seeds": over if given.seeds > 1 else {}}
    print(write("main_job", result))


if __name__ == "__main__":
    main()
