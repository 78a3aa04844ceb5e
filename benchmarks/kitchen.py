"""Franka Kitchen from images: cloned from scripted experts, improved by RL, on held-out starts.

Two arms, each with its own demonstrations, weights and starts for every seed: single elements, five
in one policy, from sparse success; and one sequence of four elements, from progress and a reward
for each part.

    python -m benchmarks.kitchen elements|sequence [--seeds 3] [--out runs/kitchen]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._markdown import (
    before_after,
    counted,
    if_one_horizon,
    number_of_runs,
    origin,
    table,
    within,
)
from benchmarks._record import write
from benchmarks._runs import GENEROUS, both, changes, command, evaluated, trained
from vla_rl.results.evaluation import EvalResult, compare, comparison_rows
from vla_rl.results.intervals import mean_interval

SUITE = ("--env", "franka_kitchen")
# A step is 80 ms, eight times one of Meta-World: short chunks, little noise.
NETWORK = ("--net.chunk", "5", "--net.head.std", "0.04")
RECIPE = ("--anchor.coef", "10", "--train.checkpoint-every", "10")


@dataclass(frozen=True)
class Arm:
    """What is practised, and for how long.

    Attributes:
        tasks: Of the suite, all in one policy.
        horizon: In environment steps.
        demos: Demonstrations of each task.
        sft_steps: Gradient steps of cloning.
        env_steps: Environment steps of RL.
        episodes: Held-out starts of each task.
        options: Of the training, besides those of all arms.
        generous: Horizon of the evaluation; 0 for that of training. A sequence has that alone: when
            its parts were completed is not kept.
    """

    tasks: tuple[str, ...]
    horizon: int
    demos: int
    sft_steps: int
    env_steps: int
    episodes: int
    options: tuple[str, ...] = ()
    generous: int = 0

    @property
    def world(self) -> tuple[str, ...]:
        """Options that name tasks and horizon."""
        return (*SUITE, "--tasks", *self.tasks, "--max-steps", str(self.horizon))


ELEMENTS = ("light-switch", "slide-cabinet", "kettle", "top-burner", "bottom-burner")
ARMS = {
    "elements": Arm(
        ELEMENTS,
        horizon=60,
        demos=20,
        sft_steps=1500,
        env_steps=200_000,
        episodes=100,
        options=("--algorithm", "dapo"),
        generous=GENEROUS,
    ),
    "sequence": Arm(
        ("kitchen-burners",),
        horizon=280,
        demos=50,
        sft_steps=3000,
        env_steps=240_000,
        episodes=50,
        # An episode of 56 decisions needs credit for single ones.
        options=(
            *("--algorithm", "ppo", "--algo.critic-warmup", "1"),
            *("--rewards", "subgoals", "progress", "--train.episodes-per-iteration", "32"),
        ),
    ),
}


def cloned(folder: Path, arm: Arm, seed: int) -> Path:
    """The policy cloned from this seed's demonstrations."""
    policy = folder / "sft" / "policy"
    if not policy.exists():
        demos = ("--demos", folder / "demos")
        first = ("--episodes", str(arm.demos), "--first", str(100 * seed))
        # The experts take the time they need.
        command("record", *SUITE, "--tasks", *arm.tasks, *first, "--out", folder / "demos")
        learn = ("--sft.steps", str(arm.sft_steps), "--seed", str(seed), *NETWORK)
        command("sft", *demos, *arm.world, *learn, "--out", folder / "sft")
    return policy


def one_seed(out: Path, arm: Arm, seed: int) -> dict[str, Any]:
    """Before and after, measure by measure."""
    start = cloned(out, arm, seed)
    episodes = ("--eval.episodes-per-task", str(arm.episodes))
    time = arm.generous
    before = evaluated(start, out / "eval_before.json", *episodes, max_steps=time)
    budget = ("--train.env-steps", str(arm.env_steps))
    how = (*RECIPE, *arm.options, *budget)
    after = trained(out / "rl", start, seed, *how, evaluation=episodes, max_steps=time)
    (was, was_with_time), (now, now_with_time) = both(before), both(after)
    found = {"seed": seed, **measured(was, now)}
    if time:
        found["generous"] = changes(was_with_time, now_with_time)["mean"]
        found["median_steps"] = [before.median_steps, after.median_steps]
    print(seed, f"{was.mean.value:.3f} -> {now.mean.value:.3f}", flush=True)
    return found


def measured(before: EvalResult, after: EvalResult) -> dict[str, Any]:
    """Every measure before and after, and the mean."""
    measures = {
        row.name: {
            "before": list(row.before),
            "after": list(row.after),
            "difference": list(row.change),
        }
        for task in before.tasks
        for row in comparison_rows(task, before.tasks[task], after.tasks[task])
    }
    mean = {
        "before": list(before.mean),
        "after": list(after.mean),
        "difference": list(compare(before, after).mean),
    }
    return {"protocol": before.protocol_id, "measures": measures, "mean": mean}


def over_seeds(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean of every measure over seeds, with Student's t interval."""
    rows = {name: [seed["measures"][name] for seed in seeds] for name in seeds[0]["measures"]}
    rows["mean"] = [seed["mean"] for seed in seeds]
    if "generous" in seeds[0]:
        rows["generous"] = [seed["generous"] for seed in seeds]
    return {
        name: {
            when: list(mean_interval([row[when][0] for row in of_seeds]))
            for when in ("before", "after", "difference")
        }
        for name, of_seeds in rows.items()
    }


def kitchen_elements(result: dict[str, Any]) -> str:
    """Success of single elements before and after."""
    seeds, arm = result["seeds"], result["arm"]
    rows = [["element", "clone", "after RL", "difference in points", "each seed"]]
    for name, found in result["over"].items():
        each = [seed.get(name) or seed["measures"][name] for seed in seeds]
        told = ", ".join(f"{100 * e['before'][0]:.0f} → {100 * e['after'][0]:.0f}" for e in each)
        means = {
            "mean": f"**mean, {within(arm['horizon'])}**",
            "generous": f"**mean, {within(arm.get('generous', 0))}**",
        }
        rows.append([means.get(name, name), *before_after(found), told])
    note = (
        f"One policy for all, {arm['demos']} demonstrations of each, horizon {arm['horizon']} "
        f"steps, {arm['env_steps']:,} environment steps of RL (DAPO, sparse success); "
        f"{arm['episodes']} held-out starts of each; {number_of_runs(seeds)} {if_one_horizon(arm)}"
        f"{origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


def kitchen_sequence(result: dict[str, Any]) -> str:
    """How much of a sequence is completed before and after."""
    seeds, arm = result["seeds"], result["arm"]
    parts = 4
    rows = [["measure", "clone", "after RL", "difference", "each seed"]]
    for name, found in result["over"].items():
        if name in ("mean", "generous"):
            continue
        each = [seed["measures"][name] for seed in seeds]
        measure = name.partition(": ")[2]
        if measure.startswith("share"):
            counts = [counted(found[w], parts) for w in ("before", "after", "difference")]
            told = ", ".join(
                f"{parts * e['before'][0]:.2f} → {parts * e['after'][0]:.2f}" for e in each
            )
            rows.append([f"**mean completed of {parts}**", *counts, told])
        else:
            told = ", ".join(
                f"{100 * e['before'][0]:.0f} → {100 * e['after'][0]:.0f}" for e in each
            )
            rows.append([measure, *before_after(found), told])
    note = (
        f"`{arm['tasks'][0]}`, {arm['demos']} demonstrations, horizon {arm['horizon']} steps, "
        f"{arm['env_steps']:,} environment steps of RL (PPO, progress and a reward for each part); "
        f"{arm['episodes']} held-out starts; {number_of_runs(seeds)} {origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


TABLES = {"kitchen_elements": kitchen_elements, "kitchen_sequence": kitchen_sequence}
"""What writes the tables of results, by their names."""


def main() -> None:
    """Measure one arm and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("arm", choices=ARMS)
    parser.add_argument("--seeds", type=int, default=3, help="at least 2, for intervals")
    parser.add_argument("--out", type=Path, default=Path("runs/kitchen"))
    given = parser.parse_args()
    arm = ARMS[given.arm]
    folder = given.out / given.arm
    seeds = [one_seed(folder / f"seed{s}", arm, s) for s in range(given.seeds)]
    setting = {"arm": vars(arm), "recipe": [*NETWORK, *RECIPE]}
    print(write(f"kitchen_{given.arm}", {**setting, "seeds": seeds, "over": over_seeds(seeds)}))


if __name__ == "__main__":
    main()
