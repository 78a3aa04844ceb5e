"""How well the scripted experts of Franka Kitchen do, from the default starts.

Every element and every sequence is played from the same demo seeds at the benchmark's time limit,
and the sequence of all elements once more with twice the time, which it needs.

    python -m benchmarks.kitchen_experts [--seeds 50]
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks._markdown import origin, table
from benchmarks._record import write
from vla_rl.envs import franka_kitchen as suite
from vla_rl.envs._kitchen.simulator import Settings
from vla_rl.results.intervals import wilson
from vla_rl.rollout.worker_pool import cores
from vla_rl.types import Task, seed_for

SETTINGS = Settings(cameras=())


class Played(NamedTuple):
    """One episode.

    Attributes:
        success: Whether all of it was done.
        steps: Environment steps taken.
        completed: How many subgoals were done; 0 for a single element.
    """

    success: bool
    steps: int
    completed: int


def play(task: Task, seed: int) -> Played:
    """Let the expert play from a start."""
    env, act = suite.make(task, SETTINGS), suite.expert(task)
    env.start(seed)
    outcome = env.advance(act(env))
    while not (outcome.terminated or outcome.truncated):
        outcome = env.advance(act(env))
    return Played(outcome.success, env.steps, outcome.completed.bit_count())


def summary(task: Task, episodes: list[Played]) -> dict[str, Any]:
    """Success with Wilson's 95 % interval, and how long it took."""
    solved = [played.steps for played in episodes if played.success]
    found: dict[str, Any] = {
        "max_steps": task.max_steps,
        "episodes": len(episodes),
        "success": len(solved) / len(episodes),
        "interval": wilson(len(solved), len(episodes)),
        "mean_steps_when_solved": float(np.mean(solved)) if solved else None,
        "longest_when_solved": max(solved, default=None),
    }
    if task.subgoals:
        found["subgoals"] = task.subgoals
        found["mean_completed"] = float(np.mean([played.completed for played in episodes]))
    return found


def kitchen_experts(result: dict[str, Any]) -> str:
    """Success of the scripted experts."""
    rows = [["task", "solved", "95 % interval", "steps", "completed parts"]]
    for name, found in result["tasks"].items():
        low, high = (100 * end for end in found["interval"])
        steps = found["mean_steps_when_solved"]
        parts = found.get("subgoals")
        rows.append(
            [
                name,
                f"{found['success'] * found['episodes']:.0f} of {found['episodes']}",
                f"{low:.0f}-{high:.0f} %",
                "-" if steps is None else f"{steps:.0f}",
                f"{found['mean_completed']:.1f} of {len(parts)}" if parts else "",
            ]
        )
    return f"{table(*rows)}\n\nDefault starts. {origin(result)}"


TABLES = {"kitchen_experts": kitchen_experts}
"""What writes the tables of results, by their names."""


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=50)
    seeds = [seed_for("demo", index) for index in range(parser.parse_args().seeds)]
    whole = next(task for task in suite.tasks() if task.id == "kitchen-all")
    found: dict[str, Any] = {}
    with ProcessPoolExecutor(cores()) as pool:
        for task in (*suite.tasks(), replace(whole, max_steps=2 * suite.MAX_STEPS)):
            name = f"{task.id}, {task.max_steps} steps"
            found[name] = summary(task, list(pool.map(partial(play, task), seeds, chunksize=5)))
            print(name, found[name], flush=True)
    print(write("kitchen_experts", {"settings": asdict(SETTINGS), "tasks": found}))


if __name__ == "__main__":
    main()
