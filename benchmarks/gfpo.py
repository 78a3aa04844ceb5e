"""Does GFPO make robot episodes shorter at equal success? The robot form of its paper's claim.

One task with time to spare, so that success alone does not ask for speed. All arms start from the
same clones, with groups of 16 and the same number of environment steps: GRPO with success only,
GFPO with each of its three rules of retention, and GRPO whose reward falls with time.

    python -m benchmarks.gfpo [--seeds 3] [--env-steps 240000] [--out runs/gfpo]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks._markdown import if_one_horizon, origin, percent, table, within
from benchmarks._record import write
from benchmarks._runs import both, cloned, column, evaluated, trained
from vla_rl.results.evaluation import EvalResult
from vla_rl.results.intervals import mean_interval

TASK, HORIZON = "drawer-open-v3", "200"
GENEROUS = 500  # of the evaluation: Meta-World's own
GROUP = ("--algo.group-size", "16", "--algo.loss-agg-mode", "seq-mean-token-mean")
KEPT = ("--algo.num-remains-in-group", "4")  # a quarter, where the paper found most to be gained
ARMS: dict[str, tuple[str, ...]] = {
    "grpo": ("--algorithm", "grpo", *GROUP),
    "gfpo stratified": ("--algorithm", "gfpo", *GROUP, *KEPT),
    "gfpo full_group": ("--algorithm", "gfpo", *GROUP, *KEPT, "--algo.retention", "full_group"),
    "gfpo best": ("--algorithm", "gfpo", *GROUP, *KEPT, "--algo.retention", "best"),
    "grpo, speed reward": ("--algorithm", "grpo", *GROUP, "--rewards", "speed"),
}


def facts(result: EvalResult) -> dict[str, Any]:
    """Success and length on held-out starts within the horizon of training, and success later."""
    short, generous = both(result)
    task = short.tasks[TASK]
    return {
        "success": task.rate.value,
        "generous": generous.tasks[TASK].rate.value,
        "solved_steps": task.solved_steps,
        "median_steps": task.median_steps,
    }


def one_seed(out: Path, seed: int, env_steps: int) -> dict[str, Any]:
    """All arms from one clone."""
    start = cloned(out, seed, ("--tasks", TASK, "--max-steps", HORIZON), ("2",))
    found: dict[str, Any] = {
        "clone": facts(evaluated(start, out / "eval_before.json", max_steps=GENEROUS)),
    }
    for name, options in ARMS.items():
        folder = out / name.replace(" ", "_").replace(",", "")
        shared = ("--anchor.coef", "10", "--train.env-steps", str(env_steps))
        result = trained(folder, start, seed, *options, *shared, max_steps=GENEROUS)
        found[name] = facts(result)
        for metric in ("gfpo/frac_groups_dead", "gfpo/metric_kept", "gfpo/metric_all"):
            if values := column(folder, metric):
                found[name][metric.removeprefix("gfpo/")] = sum(values) / len(values)
        print(seed, name, found[name], flush=True)
    return {"seed": seed, "arms": found}


def gfpo(result: dict[str, Any]) -> str:
    """Success and length by arm."""
    timed = "generous" in result
    later = [f"success {within(result['generous'])}"] if timed else []
    success = [f"success {within(result['horizon'])}", *later]
    rows = [["arm", *success, "steps when solved", "shorter than GRPO by", "groups without use"]]
    for name, found in result["over_seeds"].items():
        shorter = result["shorter"].get(name)
        dead = [seed["arms"][name].get("frac_groups_dead") for seed in result["seeds"]]
        value, low, high = found["solved_steps"]
        rows.append(
            [
                name,
                percent(found["success"]),
                *([percent(found["generous"])] if timed else []),
                f"{value:.1f} [{low:.1f}, {high:.1f}]",
                percent_of_either_sign(shorter) if shorter else "",
                "" if None in dead else f"{sum(dead) / len(dead):.0%}",
            ]
        )
    note = (
        f"{result['task']} with a horizon of {result['horizon']} steps, {len(result['seeds'])} "
        f"seeds each with its own clone, {result['env_steps']:,} environment steps, groups of 16 "
        "of which GFPO keeps 4; 100 held-out starts; intervals over seeds (Student's t; shorter: "
        f"paired). {if_one_horizon(result)}{origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


def percent_of_either_sign(estimate: list[float]) -> str:
    """``12 % [-3, 27]``."""
    return "{:.0f} % [{:.0f}, {:.0f}]".format(*(100 * share for share in estimate))


TABLES = {"gfpo": gfpo}
"""What writes the tables of results, by their names."""


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="at least 2, for intervals")
    parser.add_argument("--env-steps", type=int, default=240_000, help="of every run")
    parser.add_argument("--out", type=Path, default=Path("runs/gfpo"))
    given = parser.parse_args()
    seeds = [one_seed(given.out / f"seed{s}", s, given.env_steps) for s in range(given.seeds)]
    over_seeds = {
        name: {
            what: list(mean_interval([seed["arms"][name][what] for seed in seeds]))
            for what in ("success", "generous", "solved_steps")
        }
        for name in seeds[0]["arms"]
    }
    shorter = {
        name: list(
            mean_interval(
                [
                    1 - seed["arms"][name]["solved_steps"] / seed["arms"]["grpo"]["solved_steps"]
                    for seed in seeds
                ]
            )
        )
        for name in ARMS
        if name != "grpo"
    }
    horizons = {"horizon": int(HORIZON), "generous": GENEROUS}
    setting = {"task": TASK, **horizons, "env_steps": given.env_steps}
    print(write("gfpo", {**setting, "seeds": seeds, "over_seeds": over_seeds, "shorter": shorter}))


if __name__ == "__main__":
    main()
