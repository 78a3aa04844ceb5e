"""The main job from several seeds: success before and after RL on starts never trained on.

Each seed has its own demonstrations, initial weights, training starts and noise; all are evaluated
on the same starts, once, with time to spare. Success is reported within the horizon of training and
within the generous one: the first also counts slowness as failure.

    python -m benchmarks.main_job [--seeds 5] [--out runs/main_job]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks._markdown import ONE_HORIZON, before_after, median, origin, table, within
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


def main_job(result: dict[str, Any]) -> str:
    """Success before and after, within the horizon of training and with time to spare."""
    seeds, over = result["seeds"], result["over_seeds"]
    world = result["config"]["world"]
    timed = "generous" in seeds[0]
    columns = ["clone", "after RL", "difference in points"]
    rows = [["task", "seed", *columns]]
    if timed:
        short, long = within(*world["max_steps"]), within(seeds[0]["generous"]["horizon"])
        named = [f"{column}, {when}" for when in (short, long) for column in columns]
        rows = [["task", "seed", *named, "median steps when solved"]]

    def cells(found: dict[str, Any], with_time: dict[str, Any] | None, steps: str) -> list[str]:
        return [
            *before_after(found),
            *([*before_after(with_time), steps] if with_time is not None else []),
        ]

    for task in seeds[0]["tasks"]:
        for seed in seeds:
            with_time = seed["generous"]["tasks"][task] if timed else None
            steps = median(with_time["median_steps"]) if with_time else ""
            numbers = cells(seed["tasks"][task], with_time, steps)
            rows.append([task, str(seed["seed"]), *numbers])
    for task, found in over.get("tasks", {}).items():
        with_time = over["generous"]["tasks"][task] if timed else None
        rows.append([f"**{task}**", f"mean of {len(seeds)}", *cells(found, with_time, "")])
    if over:
        with_time = over["generous"]["mean"] if timed else None
        mean = cells(over["mean"], with_time, "")
        rows.append(["**mean over tasks**", f"mean of {len(seeds)}", *mean])
    minutes = ", ".join(f"{seed['seconds'] / 60:.1f}" for seed in seeds)
    horizons = zip(world["tasks"], world["max_steps"], strict=True)
    each = ", ".join(f"{task} {steps}" for task, steps in horizons)
    what = (
        "the same episodes with time to spare beside"
        if timed
        else f"{ONE_HORIZON[0].lower()}{ONE_HORIZON[1:-1]}"
    )
    note = (
        f"Success within the horizon of training ({each} steps) on 100 held-out starts of each "
        f"task; {what}. 95 % intervals: of one run (Wilson; paired Newcombe for a difference) they "
        "cover other starts for the same policies; over seeds (Student's t) another run with other "
        "demonstrations, weights and noise on the same kind of machine. Other machines are not "
        f"covered. Wall time from command to summary: {minutes} minutes. {origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


TABLES = {"main_job": main_job}
"""What writes the tables of results, by their names."""


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
