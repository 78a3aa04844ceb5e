"""Environment steps per second with the policy in the loop, against the usual way.

Measured one after the other in one run on one machine, each with one process per core:

- ``usual``: a re-implementation of how peers step image environments: one process per environment,
  every inner step of a chunk rendered at 480x480 in default quality and sent back pickled. Random
  actions, so the policy costs it nothing.
- ``usual_small``: the same, but with our cameras, resolution and fast rendering at every step.
- ``collector``: ours, with the policy choosing every chunk.
- ``meta_world``: stock Meta-World ``step`` without any rendering.
- ``physics``: MuJoCo alone, five ``mj_step`` for each environment step, the limit of any method.

    python -m benchmarks.rollout_throughput [--seconds 20]
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks._markdown import origin, table
from benchmarks._record import write
from vla_rl import plugins
from vla_rl.envs import metaworld as suite
from vla_rl.policies import vla
from vla_rl.rollout.collector import RolloutConfig, episode_keys
from vla_rl.rollout.local_collector import LocalCollector
from vla_rl.rollout.play import PlaySettings
from vla_rl.rollout.worker_pool import cores
from vla_rl.types import EpisodeSpec, seed_for
from vla_rl.world import World

TASKS = ("drawer-open-v3", "door-open-v3", "push-v3")
CHUNK = 10
HORIZON = 120
GROUP = 8


def stock(task: str, pixels: int | None) -> Any:
    """A stock Meta-World environment; with ``pixels`` it can render in default quality."""
    suite.prepare(suite.Settings())
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    sight: dict[str, Any] = {}
    if pixels:
        sight = {"render_mode": "rgb_array", "camera_name": "corner2"}
        sight |= {"width": pixels, "height": pixels}
    env: Any = ALL_V3_ENVIRONMENTS[task](**sight)
    env._set_task_called = True
    env._freeze_rand_vec = False
    env.seed(0)
    env.reset()
    return env


def step_usual(task: str) -> Callable[[], Any]:
    """One step of the usual way; returns what would be sent to the policy's process."""
    env, rng = stock(task, 480), np.random.default_rng(0)

    def step() -> Any:
        if env.curr_path_length >= HORIZON:
            env.reset()
        obs, *rest = env.step(rng.uniform(-1, 1, 4).astype(np.float32))
        return obs, rest, env.render()

    return step


def step_usual_small(task: str) -> Callable[[], Any]:
    """The usual way with our environment, cameras, resolution and quality."""
    world = World(tasks=(task,), max_steps=(HORIZON,))
    env, rng = suite.make(world.resolve().tasks[0], suite.Settings()), np.random.default_rng(0)
    env.reset(seed=0)

    def step() -> Any:
        result = env.step(rng.uniform(-1, 1, 4).astype(np.float32))
        if result[2] or result[3]:
            env.reset(seed=0)
        return result

    return step


def step_meta_world(task: str) -> Callable[[], Any]:
    """Stock Meta-World without rendering."""
    env, rng = stock(task, None), np.random.default_rng(0)

    def step() -> Any:
        if env.curr_path_length >= HORIZON:
            env.reset()
        env.step(rng.uniform(-1, 1, 4).astype(np.float32))

    return step


def step_physics(task: str) -> Callable[[], Any]:
    """MuJoCo alone: what one environment step simulates, and nothing else."""
    import mujoco

    env, rng = stock(task, None), np.random.default_rng(0)
    steps = 0

    def step() -> Any:
        nonlocal steps
        steps += 1
        if steps % HORIZON == 0:
            env.reset()
        env.set_xyz_action(rng.uniform(-1, 1, 3))
        env.data.ctrl[:] = (1.0, -1.0)
        mujoco.mj_step(env.model, env.data, nstep=env.frame_skip)

    return step


WAYS = {
    "usual": step_usual,
    "usual_small": step_usual_small,
    "meta_world": step_meta_world,
    "physics": step_physics,
}
# The usual way exchanges a message for every step; the limits without frames need none.
STEPS_PER_MESSAGE = {"usual": 1, "usual_small": 1, "meta_world": 100, "physics": 100}


def _worker(connection: Connection, way: str, task: str) -> None:
    step = WAYS[way](task)
    step()
    connection.send("ready")
    while connection.recv() == "step":
        for _ in range(STEPS_PER_MESSAGE[way]):
            result = step()
        connection.send(result)  # pickled, frames and all


def by_processes(way: str, seconds: float) -> dict[str, float]:
    """Environment steps per second by task, one process per core, stepped in turn."""
    context = multiprocessing.get_context("spawn")
    rates = {}
    for task in TASKS:
        pipes = []
        for _ in range(cores()):
            ours, theirs = context.Pipe()
            context.Process(target=_worker, args=(theirs, way, task), daemon=True).start()
            pipes.append(ours)
        for pipe in pipes:
            pipe.recv()
        messages = _messages_per_second(pipes, seconds / len(TASKS))
        rates[task] = messages * STEPS_PER_MESSAGE[way]
        for pipe in pipes:
            pipe.send("stop")
    return rates


def _messages_per_second(pipes: list[Connection], seconds: float) -> float:
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for pipe in pipes:
            pipe.send("step")
        for pipe in pipes:
            pipe.recv()
        count += len(pipes)
    return count / (time.perf_counter() - began)


def by_collector(seconds: float) -> tuple[dict[str, float], dict[str, float]]:
    """Environment steps per second by task, and the wall-time split over all tasks."""
    settings = suite.Settings()
    policy = vla.Policy(vla.Config(chunk=CHUNK), suite.spaces(settings))
    policy.freeze(("vlm",))
    rates, split = {}, dict.fromkeys(("physics", "render", "transfer", "policy"), 0.0)
    with LocalCollector("metaworld", settings, RolloutConfig(), "cpu") as collector:
        for name in TASKS:
            task = World(tasks=(name,), max_steps=(HORIZON,)).resolve().tasks[0]
            policy.remember([task.instruction])
            specs = [
                EpisodeSpec(task, seed_for("train", i)) for i in range(8) for _ in range(GROUP)
            ]
            keys = episode_keys(0, "speed", count=len(specs))
            collector.collect(policy, specs[: 2 * GROUP], keys[: 2 * GROUP], PlaySettings())
            began, steps = time.perf_counter(), 0
            while time.perf_counter() - began < seconds / len(TASKS):
                rollout = collector.collect(policy, specs, keys, PlaySettings())
                steps += sum(t.steps for t in rollout.trajectories)
                for part, spent in rollout.seconds.items():
                    split[part] += spent
            rates[name] = steps / (time.perf_counter() - began)
    total = sum(split.values())
    return rates, {part: spent / total for part, spent in split.items()}


def rollout_throughput(result: dict[str, Any]) -> str:
    """Environment steps per second."""
    names = {
        "usual": "the usual way, re-implemented: a process per environment, 480x480 "
        "default-quality frame at every step, pickled; no policy",
        "usual_small": "the same with our cameras, resolution and fast rendering",
        "collector": "**vla-rl, with the policy in the loop**",
        "meta_world": "stock Meta-World `step`, no frames, no policy",
        "physics": "MuJoCo's physics alone",
    }
    rows = [["", "environment steps/s", "of vla-rl"]]
    ours = result["mean"]["collector"]
    for way, text in names.items():
        rate = result["mean"][way]
        rows.append([text, f"{rate:,.0f}", f"{rate / ours:.2g}"])
    split = ", ".join(f"{p} {s:.0%}" for p, s in result["collector_time_split"].items())
    note = (
        f"{result['times_usual']:.0f} times the usual way, {result['share_of_physics']:.0%} of "
        f"bare physics. Time of vla-rl: {split}. Chunks of {result['chunk']}, two 64 px cameras. "
        f"{origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


TABLES = {"rollout_throughput": rollout_throughput}
"""What writes the tables of results, by their names."""


def main() -> None:
    """Measure everything and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="for each way")
    seconds = parser.parse_args().seconds
    plugins.load("envs", "metaworld")
    rates = {}
    for way in WAYS:
        rates[way] = by_processes(way, seconds)
        print(way, rates[way], flush=True)
    rates["collector"], split = by_collector(seconds)
    print("collector", rates["collector"], split, flush=True)
    mean = {way: float(np.mean(list(by_task.values()))) for way, by_task in rates.items()}
    path = write(
        "rollout_throughput",
        {
            "unit": "environment steps per second",
            "chunk": CHUNK,
            "horizon": HORIZON,
            "group_size": GROUP,
            "seconds_per_way": seconds,
            "by_task": rates,
            "mean": mean,
            "collector_time_split": split,
            "times_usual": mean["collector"] / mean["usual"],
            "times_usual_small": mean["collector"] / mean["usual_small"],
            "share_of_physics": mean["collector"] / mean["physics"],
        },
    )
    print(f"{mean['collector'] / mean['usual']:.0f} times the usual way; written to {path}")


if __name__ == "__main__":
    main()
