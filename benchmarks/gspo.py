"""Is one ratio per episode (GSPO) more stable than one per unit (GRPO) when a batch is reused?

Both make six passes over every batch, with no KL, no early stop and no anchor to demonstrations, at
the usual and at three times the usual learning rate. Only the level of the ratio and its clip range
differ.

    python -m benchmarks.gspo [--seeds 3] [--env-steps 120000] [--out runs/gspo]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._markdown import if_one_horizon, origin, percent, table, within
from benchmarks._record import write
from benchmarks._runs import GENEROUS, both, cloned, column, curve, evaluated, trained
from vla_rl.results.intervals import mean_interval

WORLD = ("--tasks", "drawer-open-v3", "push-v3", "--max-steps", "100", "90")
DEMOS = ("2", "10")
RATES = ("1e-4", "3e-4")
REUSED = ("--algo.ppo-epochs", "6", "--algo.target-kl", "0", "--curriculum", "uniform")
ARMS: dict[str, tuple[str, ...]] = {
    "grpo": ("--algorithm", "grpo", "--algo.kl-coef", "0", "--algo.kl-placement", "none"),
    "gspo": ("--algorithm", "gspo"),
}
LOGGED = ("actor/pg_clipfrac", "actor/ratio_std", "actor/ppo_kl", "actor/clip_range")


def one(folder: Path, start: Path, seed: int, env_steps: int, *options: str) -> dict[str, Any]:
    """Train, evaluate, and read what the clip did."""
    budget = ("--train.env-steps", str(env_steps))
    result = trained(folder, start, seed, *options, *REUSED, *budget)
    logged = {name: column(folder, name) for name in LOGGED}
    means = {
        name.removeprefix("actor/"): float(np.mean(values))
        for name, values in logged.items()
        if values
    }
    short, generous = both(result)
    success = {"success": short.mean.value, "generous": generous.mean.value}
    return {**success, "median_steps": result.median_steps, "train_success": curve(folder), **means}


def gspo(result: dict[str, Any]) -> str:
    """What several passes over a batch do at either level of the ratio."""
    timed = "generous" in result
    short = within(*result["horizons"]) if timed else "within the horizon of training"
    later = [f"held-out success {within(result['generous'])}"] if timed else []
    rows = [
        ["arm", f"held-out success {short}", "each seed", *later, "training success over time",
         "clipped", "spread", "KL"]
    ]  # fmt: skip
    for label, seeds in result["arms"].items():
        mean = lambda name: sum(seed[name] for seed in seeds) / len(seeds)  # noqa: B023,E731
        pieces = zip(*(seed["train_success"] for seed in seeds), strict=True)
        rows.append(
            [
                label,
                percent(result["over_seeds"][label]),
                ", ".join(f"{100 * seed['success']:.0f}" for seed in seeds),
                *([percent(result["over_seeds_generous"][label])] if timed else []),
                " ".join(f"{sum(piece) / len(piece):.2f}" for piece in pieces),
                f"{mean('pg_clipfrac'):.0%}",
                f"{mean('ratio_std'):.2g}",
                f"{mean('ppo_kl'):.2g}",
            ]
        )
    seeds = len(next(iter(result["arms"].values())))
    note = (
        f"drawer-open-v3 and push-v3 from one clone at {percent(result['clone'])}, {seeds} seeds, "
        f"{result['env_steps']:,} environment steps, six passes over every batch without KL, early "
        "stop or anchor. Clipped: share of units; spread: standard deviation of the ratio; KL per "
        f"action within an update. {if_one_horizon(result)}{origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


TABLES = {"gspo": gspo}
"""What writes the tables of results, by their names."""


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="at least 2, for intervals")
    parser.add_argument("--env-steps", type=int, default=120_000, help="of every run")
    parser.add_argument("--out", type=Path, default=Path("runs/gspo"))
    given = parser.parse_args()
    start = cloned(given.out, 1, WORLD, DEMOS)
    before = evaluated(start, given.out / "eval_before.json")
    arms: dict[str, Any] = {}
    for rate in RATES:
        for name, options in ARMS.items():
            label = f"{name} lr {rate}"
            arms[label] = []
            for seed in range(given.seeds):
                folder = given.out / f"{name}_{rate}_{seed}"
                learn = ("--learner.lr", rate)
                arms[label].append(one(folder, start, seed, given.env_steps, *options, *learn))
                print(label, seed, arms[label][-1], flush=True)
    over_seeds, over_generous = (
        {
            label: list(mean_interval([seed[what] for seed in seeds]))
            for label, seeds in arms.items()
        }
        for what in ("success", "generous")
    )
    short, generous = both(before)
    result = {
        "env_steps": given.env_steps,
        "horizons": list(short.horizons.values()),
        "generous": GENEROUS,
        "clone": list(short.mean),
        "clone_generous": list(generous.mean),
        "arms": arms,
        "over_seeds": over_seeds,
        "over_seeds_generous": over_generous,
    }
    print(write("gspo", result))


if __name__ == "__main__":
    main()
