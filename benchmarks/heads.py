"""Which action head learns best from a few demonstrations and then from its own episodes?

Every head is cloned from the same demonstrations and trained by the same algorithm with the same
learning rate and number of environment steps; backbone, critic and exploration correlations are the
same. Success is measured greedily on starts that were never trained on. A flow head sums the
log-prob of a unit over its denoising steps, so the same learning rate moves it further.

    python -m benchmarks.heads [--seeds 3] [--env-steps 150000] [--out runs/heads]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks._markdown import if_one_horizon, origin, percent, table, within
from benchmarks._record import write
from benchmarks._runs import GENEROUS, both, column, command, curve, evaluated
from vla_rl.policy import PolicyBase, load_policy
from vla_rl.results.intervals import mean_interval
from vla_rl.types import Observation

TASK = "drawer-open-v3"
HORIZON = "90"
HEADS: dict[str, tuple[str, ...]] = {
    "gaussian": (),
    "laplace": ("--net.head", "laplace"),
    "flow_sde": ("--net.head", "flow_sde"),
    "flow_sde, one step": ("--net.head", "flow_sde", "--net.head.stochastic", "one"),
    "flow_noise": ("--net.head", "flow_noise"),
}
ROWS, REPEATS = 32, 20  # decisions at once, and how often, where acting is timed


def one(folder: Path, demos: Path, seed: int, options: tuple[str, ...], given: Any) -> Any:
    """Clone, train, and evaluate both."""
    learn = ("--max-steps", HORIZON, "--seed", str(seed))
    clone, end = folder / "sft" / "policy", folder / "rl"
    if not clone.exists():
        steps = ("--sft.steps", str(given.sft_steps))
        command("sft", "--demos", demos, *learn, *options, *steps, "--out", folder / "sft")
    before = evaluated(clone, folder / "eval_before.json", *_episodes(given))
    if not (end / "policy").exists():
        budget = ("--train.env-steps", str(given.env_steps), "--train.iterations", "100000")
        words = ("--policy", clone, *learn, "--algorithm", given.algorithm, *budget)
        command("train", *words, "--out", end, *(["--resume"] if end.exists() else []))
    after = evaluated(end / "policy", folder / "eval_after.json", *_episodes(given))
    (was, was_with_time), (now, now_with_time) = both(before), both(after)
    return {
        "before": was.mean.value,
        "after": now.mean.value,
        "generous": {"before": was_with_time.mean.value, "after": now_with_time.mean.value},
        "median_steps": [before.median_steps, after.median_steps],
        "train_success": curve(end),
        "decisions_per_second": decisions_per_second(load_policy(clone)),
        **updates(end),
    }


def _episodes(given: Any) -> tuple[str, ...]:
    return ("--eval.episodes-per-task", str(given.episodes))


def updates(folder: Path) -> dict[str, float]:
    """Seconds of a gradient step and KL of an action; none if no group had contrast."""
    steps = sum(column(folder, "actor/updates"))
    if not steps:
        return {}
    return {
        "update_seconds": sum(column(folder, "time/update")) / steps,
        "ppo_kl": float(np.mean(column(folder, "actor/ppo_kl"))),
    }


def decisions_per_second(policy: PolicyBase) -> float:
    """Of acting with noise, backbone included, in this process alone."""
    spaces = policy.spaces
    size = (ROWS, len(spaces.views), spaces.image_size, spaces.image_size, 3)
    obs = Observation(np.zeros(size, np.uint8), np.zeros((ROWS, spaces.state_dim), np.float32))
    keys = np.stack([np.arange(ROWS), np.zeros(ROWS, np.int64)], axis=1)
    sentences = [next(iter(policy.text_memory))] * ROWS
    policy.act(obs, sentences, keys)
    began = time.perf_counter()
    for _ in range(REPEATS):
        policy.act(obs, sentences, keys)
    return ROWS * REPEATS / (time.perf_counter() - began)


def _means(seeds: list[Any]) -> dict[str, Any]:
    """Over seeds, with Student's t interval."""
    return {w: list(mean_interval([seed[w] for seed in seeds])) for w in ("before", "after")}


def heads(result: dict[str, Any]) -> str:
    """Success before and after RL, and speed, by action head."""
    when = within(result["horizon"])
    timed = "generous" in result
    later = [f"{w}, {within(result['generous'])}" for w in ("clone", "after RL")] if timed else []
    rows = [
        ["head", f"clone, {when}", f"after RL, {when}", "each seed", *later, "decisions/s",
         "ms per gradient step"]
    ]  # fmt: skip
    for name, seeds in result["heads"].items():
        mean = result["over_seeds"][name]
        steps = [seed["update_seconds"] for seed in seeds if "update_seconds" in seed]
        rows.append(
            [
                f"`{name}`",
                percent(mean["before"]),
                percent(mean["after"]),
                ", ".join(f"{100 * s['before']:.0f} → {100 * s['after']:.0f}" for s in seeds),
                *(percent(mean["generous"][w]) for w in ("before", "after") if timed),
                f"{fmean(seed['decisions_per_second'] for seed in seeds):,.0f}",
                f"{1000 * fmean(steps):.0f}",
            ]
        )
    count = len(next(iter(result["heads"].values())))
    note = (
        f"{result['task']}, {result['demos']} demonstrations, {result['sft_steps']} steps of "
        f"cloning, {result['env_steps']:,} environment steps of {result['algorithm'].upper()}, "
        f"{result['episodes']} held-out starts; {count} seeds, each with its own demonstrations, "
        "mean with Student's t interval. Speeds on a machine with other work. "
        f"{if_one_horizon(result)}{origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


TABLES = {"heads": heads}
"""What writes the tables of results, by their names."""


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="at least 2, for intervals")
    parser.add_argument("--env-steps", type=int, default=150_000, help="of RL, for each")
    parser.add_argument("--demos", type=int, default=4, help="demonstrations of each seed")
    parser.add_argument("--sft-steps", type=int, default=300, help="gradient steps of cloning")
    parser.add_argument("--episodes", type=int, default=100, help="held-out starts")
    parser.add_argument("--algorithm", default="loop")
    parser.add_argument("--out", type=Path, default=Path("runs/heads"))
    given = parser.parse_args()
    heads: dict[str, list[Any]] = {name: [] for name in HEADS}
    for seed in range(given.seeds):  # seeds outside, so that a cut leaves every head alike
        demos = given.out / f"seed{seed}" / "demos"
        if not demos.exists():
            world = ("--tasks", TASK, "--max-steps", "120")
            first = ("--episodes", str(given.demos), "--first", str(100 * seed))
            command("record", *world, *first, "--out", demos)
        for name, options in HEADS.items():
            folder = given.out / f"seed{seed}" / name.replace(", ", "_").replace(" ", "_")
            heads[name].append(one(folder, demos, seed, options, given))
            print(seed, name, heads[name][-1], flush=True)
    means = {
        name: _means(found) | {"generous": _means([seed["generous"] for seed in found])}
        for name, found in heads.items()
        if given.seeds > 1
    }
    settings = {k: v for k, v in vars(given).items() if k not in ("out", "seeds")}
    horizons = {"horizon": int(HORIZON), "generous": GENEROUS}
    whole = {"task": TASK, **horizons, **settings, "heads": heads}
    print(write("heads", {**whole, "over_seeds": means}))


if __name__ == "__main__":
    main()
