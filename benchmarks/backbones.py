"""The same demonstrations, tasks and RL with several backbones: success, time and memory.

Every arm clones the same demonstrations and then practises with its backbone frozen, as is the
default. Backbones too large for cloning as a whole on two cores have other settings for it.

    python -m benchmarks.backbones [--seeds 1] [--only ARM ...] [--clone-only ARM ...]
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks._cost import Cost, run
from benchmarks._markdown import (
    if_one_horizon,
    joined,
    number_of_seeds,
    origin,
    percent,
    points,
    table,
    within,
)
from benchmarks._record import write
from benchmarks._runs import GENEROUS, both, changes
from vla_rl.policy import load_policy
from vla_rl.results.evaluation import EvalResult

WORLD = (
    *("--tasks", "drawer-open-v3", "door-open-v3", "push-v3"),
    *("--max-steps", "100", "90", "90"),
)
DEMOS = ("2", "2", "10")
RL = (
    *("--algorithm", "dapo", "--anchor.coef", "10", "--curriculum", "frontier"),
    *("--train.iterations", "100000", "--train.checkpoint-every", "1000"),
)


@dataclass(frozen=True)
class Arm:
    """One backbone.

    Attributes:
        about: What it is, and what of it learns from the demonstrations.
        network: Options of the network.
        cloning: Options of supervised fine-tuning.
    """

    about: str
    network: tuple[str, ...] = ()
    cloning: tuple[str, ...] = ()


_FROZEN = ("--sft.no-train-vlm", "--sft.steps", "1500")
ARMS = {
    "conv": Arm("four convolutions per view from scratch, trained"),
    "efficientnet": Arm(
        "EfficientNet-Lite0 (ImageNet), frozen",
        ("--net.backbone", "timm:tf_efficientnet_lite0"),
        _FROZEN,
    ),
    "dinov2": Arm(
        "DINOv2-small, ten blocks, frozen",
        ("--net.backbone", "timm:vit_small_patch14_dinov2"),
        _FROZEN,
    ),
    # Training its connector, as one would, took 13 s a gradient step of 16 rows on one core.
    "vlm": Arm(
        "DINOv2-small + random connector + four layers of SmolLM2-135M, frozen",
        ("--net.backbone", "vlm:embedded", "--net.backbone.layers", "4"),
        _FROZEN,
    ),
}


def one(
    folder: Path, demos: Path, arm: Arm, seed: int, budget: tuple[str, ...] | None
) -> dict[str, Any]:
    """Clone, practise (unless there is no budget for it), measure before and after."""
    words: tuple[str | Path, ...] = ("--demos", demos, "--seed", str(seed))
    clone: tuple[str | Path, ...] = (*WORLD, *arm.network, *arm.cloning, "--out", folder / "sft")
    cloning = run(folder / "sft_cost.json", "sft", *words, *clone)
    start = folder / "sft" / "policy"
    before = _evaluated(folder, "before", start)
    policy: Any = load_policy(start)
    found = {
        "seed": seed,
        "parameters": sum(p.numel() for p in policy.parameters()),
        "parameters_of_backbone": sum(p.numel() for p in policy.vision.parameters()),
        **_success(before, "before"),
        "cost": {"sft": asdict(cloning)},
    }
    if budget is None:
        return found
    train: tuple[str | Path, ...] = ("--policy", start, *RL, *budget, "--out", folder / "rl")
    practice = run(folder / "rl_cost.json", "train", *words, *train)
    after = _evaluated(folder, "after", folder / "rl" / "policy")
    (was, was_with_time), (now, now_with_time) = both(before), both(after)
    return found | {
        **_success(after, "after"),
        "difference": changes(was, now)["mean"]["difference"],
        "difference_generous": changes(was_with_time, now_with_time)["mean"]["difference"],
        "median_steps": [before.median_steps, after.median_steps],
        "cost": {"sft": asdict(cloning), "rl": asdict(practice)},
    }


def _success(result: EvalResult, when: str) -> dict[str, Any]:
    """Within the horizon of training, by task too, and within the generous one."""
    short, generous = both(result)
    return {
        when: list(short.mean),
        f"tasks_{when}": {task: list(found.rate) for task, found in short.tasks.items()},
        f"generous_{when}": list(generous.mean),
    }


def _evaluated(folder: Path, when: str, policy: Path) -> EvalResult:
    name = f"eval_{when}_{GENEROUS}"
    result = folder / f"{name}.json"
    words = ("--policy", policy, "--out", result, "--eval.max-steps", str(GENEROUS))
    run(folder / f"{name}_cost.json", "eval", *words)
    return EvalResult.from_json(result.read_text())


def demonstrations(folder: Path, seed: int) -> tuple[Path, Cost]:
    """Recorded once for all arms of a seed."""
    demos = folder / "demos"
    first = ("--first", str(100 * seed))
    tasks = WORLD[: WORLD.index("--max-steps")]  # the experts take the time they need
    cost = run(
        folder / "demos_cost.json", "record", *tasks, "--episodes", *DEMOS, *first, "--out", demos
    )
    return demos, cost


def backbones(result: dict[str, Any]) -> str:
    """Success, size and cost by backbone."""
    timed = "generous" in result
    horizons = [int(word) for word in result["world"] if word.isdecimal()]
    numbers = ["clone", "after RL", "difference in points"]
    kinds = {"": within(*horizons)}
    if timed:
        kinds["generous"] = within(result["generous"])
    named = [f"{number}, {when}" for when in kinds.values() for number in numbers]
    rows = [["backbone", "parameters", *named, "cloning", "RL", "memory"]]
    for arm in result["arms"].values():
        for seed in arm["seeds"]:
            cost = [seed["cost"].get(stage) for stage in ("sft", "rl")]
            rows.append(
                [
                    arm["about"],
                    f"{seed['parameters'] / 1e6:.1f} M",
                    *(cell for kind in kinds for cell in _of_backbone(seed, kind)),
                    *(f"{spent['seconds'] / 60:.1f} min" if spent else "" for spent in cost),
                    f"{max(spent['peak_gb'] for spent in cost if spent):.1f} GB",
                ]
            )
    count = len(next(iter(result["arms"].values()))["seeds"])
    note = (
        f"{number_of_seeds(count)}; drawer-open, door-open and push in one policy, "
        f"{joined(result['demos'])} "
        f"demonstrations, {result['env_steps']:,} environment steps of DAPO with the backbone "
        "frozen; 100 held-out starts of each task, Wilson intervals. Memory: most that a command "
        f"and its workers held; times on a machine with other work. {if_one_horizon(result)}"
        f"{origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


def _of_backbone(seed: dict[str, Any], kind: str) -> list[str]:
    """Clone, after RL and difference, of one kind of horizon."""
    before, after, difference = (
        ("generous_before", "generous_after", "difference_generous")
        if kind
        else ("before", "after", "difference")
    )
    later = [percent(seed[after]), points(seed[difference])] if after in seed else ["not run", ""]
    return [percent(seed[before]), *later]


TABLES = {"backbones": backbones}
"""What writes the tables of results, by their names."""


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--clone-only", nargs="+", choices=ARMS, default=[], help="without RL")
    parser.add_argument("--env-steps", type=int, default=60_000)
    parser.add_argument("--out", type=Path, default=Path("runs/backbones"))
    given = parser.parse_args()
    budget = ("--train.env-steps", str(given.env_steps))
    arms: dict[str, list[dict[str, Any]]] = {name: [] for name in given.only}
    for seed in range(given.seeds):
        folder = given.out / f"seed{seed}"
        demos, _ = demonstrations(folder, seed)
        for name in given.only:
            practice = None if name in given.clone_only else budget
            found = one(folder / name, demos, ARMS[name], seed, practice)
            print(name, seed, found["before"][0], found.get("after"), found["cost"], flush=True)
            arms[name].append(found)
    result = {
        "world": list(WORLD),
        "demos": list(DEMOS),
        "env_steps": given.env_steps,
        "generous": GENEROUS,
        "rl": list(RL),
        "arms": {
            name: {"options": [*ARMS[name].network, *ARMS[name].cloning], "seeds": found}
            | {"about": ARMS[name].about}
            for name, found in arms.items()
        },
    }
    print(write("backbones", result))


if __name__ == "__main__":
    main()
