"""Which density of correlated exploration noise to learn from: marginal or conditional.

Exploration noise is correlated within a chunk and constant over an episode in part. Its log-prob
can be taken step by step as if independent (``marginal``: not the density that was sampled from, so
the gradient is biased) or exactly, given the noise so far (``conditional``). The noise itself, the
clone, the starts and the budget are the same for both; only the density differs.

    python -m benchmarks.noise_density [--seeds 3] [--minutes 0.4] [--out runs/noise_density]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks._record import write
from benchmarks._runs import GENEROUS, both, command, evaluated
from vla_rl.statistics import mean_interval

TASK = "drawer-open-v3"
HORIZON = "90"
DENSITIES = ("marginal", "conditional")


def success(policy: Path, when: str) -> dict[str, float]:
    """Of a policy on held-out starts, within the horizon of training and within the generous."""
    short, generous = both(evaluated(policy, policy.parent / "eval.json"))
    return {when: short.mean.value, f"generous_{when}": generous.mean.value}


def one_seed(folder: Path, seed: int, minutes: float) -> dict[str, Any]:
    """Before and after RL for both densities, from this seed's demonstrations."""
    demos = folder / "demos"
    world = ("--tasks", TASK, "--max-steps", "120")
    command("record", *world, "--episodes", "2", "--out", demos, "--first", str(100 * seed))
    found: dict[str, Any] = {"seed": seed}
    for name in DENSITIES:
        here = folder / name
        net = ("--net.density", name)
        learn = ("--max-steps", HORIZON, "--seed", str(seed))
        command("sft", "--demos", demos, *learn, *net, "--out", here / "sft", "--sft.steps", "200")
        clone = here / "sft" / "policy"
        budget = ("--train.minutes", str(minutes), "--train.iterations", "1000")
        command("train", "--policy", clone, *learn, *budget, "--out", here / "rl")
        end = here / "rl" / "policy"
        found[name] = {**success(clone, "before"), **success(end, "after")}
        print(seed, name, found[name], flush=True)
    return found


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=0.4, help="of RL for each")
    parser.add_argument("--out", type=Path, default=Path("runs/noise_density"))
    given = parser.parse_args()
    seeds = [one_seed(given.out / f"seed{s}", s, given.minutes) for s in range(given.seeds)]
    means = {
        name: {
            when: list(mean_interval([seed[name][when] for seed in seeds]))
            for when in ("before", "after", "generous_before", "generous_after")
        }
        for name in DENSITIES
        if len(seeds) > 1
    }
    horizons = {"horizon": int(HORIZON), "generous": GENEROUS}
    settings = {"task": TASK, **horizons, "minutes": given.minutes}
    print(write("noise_density", {**settings, "seeds": seeds, "over_seeds": means}))


if __name__ == "__main__":
    main()
