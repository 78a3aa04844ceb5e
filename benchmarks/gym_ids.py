"""Gymnasium ids with no file of ours: a Fetch arm, a runner, and an environment by somebody else.

The arm has no scripted expert: one is trained on the true state, records ten demonstrations, and a
policy is cloned from their images. The other two are trained from fresh weights on the
environment's own reward. One seed each. Success is reported beside the return, over training and on
held-out starts: whatever earns reward without solving the task shows as a return that rises alone.

    python -m benchmarks.gym_ids [--out runs/gym_ids]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._markdown import origin, percent, table
from benchmarks._record import write
from benchmarks._runs import column, command, curve, evaluated
from vla_rl.evaluate import EvalConfig
from vla_rl.policy import load_policy
from vla_rl.results.evaluation import EvalResult
from vla_rl.results.intervals import mean_interval
from vla_rl.rollout.collector import RolloutConfig
from vla_rl.stages.evaluate import evaluate_stage
from vla_rl.stages.setup import open_collector
from vla_rl.world import read_world

FETCH = ("--env", "gym:FetchReachDense-v4", "--instruction", "reach the red ball")
SCRATCH: dict[str, tuple[str, ...]] = {
    "cheetah": (
        *("--env", "gym:HalfCheetah-v5", "--instruction", "run forward", "--env.image", "none"),
        *("--max-steps", "200", "--env.success", "return>=100", "--env.no-success-ends"),
        *("--net.chunk", "2", "--train.env-steps", "800000", "--learner.lr", "5e-4"),
    ),
    "pusht": (
        *("--env", "gym:gym_pusht/PushT-v0", "--instruction", "push the T onto its place"),
        *("--max-steps", "100", "--env.success", "reward>=0.5", "--env.image", "none"),
        *("--net.chunk", "4", "--train.env-steps", "1000000", "--learner.lr", "2e-3"),
    ),
}
SIXTHS = 6
PPO = ("--algorithm", "ppo", "--rewards", "dense", "--network", "tiny", "--net.head.std", "0.5")
ALIKE = ("--train.iterations", "100000", "--train.checkpoint-every", "20")


def fetch(out: Path) -> dict[str, Any]:
    """An expert, and a policy cloned from its demonstrations."""
    if not (out / "expert" / "eval.json").exists():
        budget = ("--steps", "30000", "--ppo.gamma", "0.95", "--episodes", "10")
        command("expert", *FETCH, *budget, "--out", out / "expert")
    if not (out / "sft" / "policy").exists():
        learn = ("--sft.steps", "400", "--net.chunk", "5", "--out", out / "sft")
        command("sft", "--demos", out / "expert" / "demos", *learn)
    result = evaluated(out / "sft" / "policy", out / "eval.json", max_steps=0)
    expert = EvalResult.from_json((out / "expert" / "eval.json").read_text())
    return {"expert": list(expert.mean), "clone": list(result.mean), "protocol": result.protocol_id}


def from_scratch(out: Path, options: tuple[str, ...]) -> dict[str, Any]:
    """Return and success over training and on held-out starts."""
    if not (out / "policy").exists():
        command("train", *options, *PPO, *ALIKE, "--out", out)
    result, held_out_returns = with_returns(out / "policy")
    returns = column(out, "train/env_reward")
    tenth = max(1, len(returns) // 10)
    return {
        "env_steps": int(column(out, "train/env_steps")[-1]),
        "seconds": sum(column(out, "time/total")),
        "return_first": float(np.mean(returns[:tenth])),
        "return_last": float(np.mean(returns[-tenth:])),
        "success_first": float(np.mean(column(out, "train/success")[:tenth])),
        "return_sixths": curve(out, SIXTHS, "train/env_reward"),
        "success_sixths": curve(out, SIXTHS),
        "held_out": list(result.mean),
        "held_out_return": list(mean_interval(held_out_returns)),
        "protocol": result.protocol_id,
    }


def with_returns(policy: Path) -> tuple[EvalResult, list[float]]:
    """Success of a saved policy on held-out starts, and the return of each of the same episodes."""
    arena, acting = read_world(policy).resolve(), load_policy(policy)
    with open_collector(arena, RolloutConfig(), acting) as collector:
        result, episodes = evaluate_stage(collector, acting, arena, EvalConfig(), "evaluate")
    return result, [float(episode.env_reward.sum()) for episode in episodes]


def gym_ids(result: dict[str, Any]) -> str:
    """What was made of three Gymnasium ids."""
    arm, runner, block = (result[name] for name in ("fetch", "cheetah", "pusht"))
    rows = [
        ["environment", "how", "before", "after"],
        [
            "`gym:FetchReachDense-v4`",
            "PPO expert on the state, 10 demonstrations, cloned from images and state",
            f"expert {percent(arm['expert'])}",
            f"clone {percent(arm['clone'])} held-out success",
        ],
    ]
    courses = []
    for name, found in (("gym:HalfCheetah-v5", runner), ("gym:gym_pusht/PushT-v0", block)):
        if "success_sixths" in found:
            value, low, high = found["held_out_return"]
            courses.append(
                f"`{name}` in sixths of training: return "
                f"{', '.join(f'{value:.3g}' for value in found['return_sixths'])}; success "
                f"{', '.join(f'{100 * share:.0f} %' for share in found['success_sixths'])}; mean "
                f"action on held-out starts: return {value:.3g} [{low:.3g}, {high:.3g}], "
                "Student's t over starts."
            )
        rule = found["protocol"].partition("success=")[2].partition(",")[0]
        rows.append(
            [
                f"`{name}`",
                f"PPO from fresh weights on state, {found['env_steps']:,} steps, "
                f"{found['seconds'] / 60:.1f} min",
                f"return {found['return_first']:.1f}",
                f"return {found['return_last']:.1f}; `{rule}` on held-out starts: "
                f"{percent(found['held_out'])}",
            ]
        )
    note = (
        "One seed. Returns are the environment's own, means of the first and last tenth of "
        f"training, with exploration noise. {' '.join([*courses, origin(result)])}"
    )
    return f"{table(*rows)}\n\n{note}"


TABLES = {"gym_ids": gym_ids}
"""What writes the tables of results, by their names."""


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/gym_ids"))
    given = parser.parse_args()
    found = {"fetch": fetch(given.out / "fetch")}
    for name, options in SCRATCH.items():
        found[name] = from_scratch(given.out / name, options)
        print(name, found[name], flush=True)
    print(write("gym_ids", found))


if __name__ == "__main__":
    main()
