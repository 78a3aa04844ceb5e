"""Is our PPO as good as Stable-Baselines3's? The same tasks, states, rewards and environment steps.

Both learn from the state only, without images, and from the environment's own reward; a time limit
ends an episode but is no failure, so that the critic's value of the last state is bootstrapped.
Actor and critic have two hidden layers of 64. Stable-Baselines3 runs as its documentation has it
for MuJoCo, the settings of the PPO paper: one environment, 2048 steps, minibatches of 64, 10
epochs, Adam at 3e-4, clip 0.2, GAE 0.95, discount 0.99, no entropy bonus, with VecNormalize for
states and rewards. Ours has the settings that correspond: chunks of one action, whole episodes of
about 2,000 steps in all, the same minibatches, epochs and rates, and exploration that is not
correlated. What is left of difference: ours has SiLU where Stable-Baselines3 has tanh, and takes
whole episodes, so that its batches grow where episodes do (Hopper).

Measured is the return of the mean action on 20 starts that were never trained on, by one function
for both, and the return during training in tenths of the budget.

    python -m benchmarks.sb3_ppo [--seeds 3] [--env-steps 200000] [--jobs 2] [--out runs/sb3_ppo]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from benchmarks._markdown import number_of_seeds, origin, table
from benchmarks._record import write
from benchmarks._runs import column, command
from vla_rl import plugins
from vla_rl.config import from_json
from vla_rl.policy import load_policy
from vla_rl.results.intervals import mean_interval
from vla_rl.rollout.worker_pool import cores
from vla_rl.sim import SimEnv
from vla_rl.types import SEED_RANGES, Floats, Observation, seed_for
from vla_rl.world import World

PIECES = 10
HELD_OUT = 20


@dataclass(frozen=True)
class Job:
    """A task of the comparison.

    Attributes:
        suite: Name of the suite.
        task: Id of the task.
        max_steps: Horizon in environment steps.
        settings: Of the suite, by name.
        episodes: That we play in an iteration: about 2,000 steps.
    """

    suite: str
    task: str
    max_steps: int
    settings: dict[str, Any]
    episodes: int

    @property
    def world(self) -> World:
        """Where both act."""
        settings = from_json(plugins.load("envs", self.suite).Settings, self.settings)
        return World(self.suite, (self.task,), (self.max_steps,), settings)

    @property
    def options(self) -> tuple[str, ...]:
        """The same for our command line."""
        named = (
            word
            for name, value in self.settings.items()
            for word in (f"--env.{name}", *([value] if isinstance(value, str) else value))
        )
        steps = ("--max-steps", str(self.max_steps))
        return ("--env", self.suite, "--tasks", self.task, *steps, *named)


_NUMBERS = {"image": ["none"], "success": "none"}
JOBS = {
    "cheetah": Job("gym:HalfCheetah-v5", "HalfCheetah-v5", 1000, _NUMBERS, episodes=2),
    # Its first episodes last 20 steps, its later ones some hundreds.
    "hopper": Job("gym:Hopper-v5", "Hopper-v5", 1000, _NUMBERS, episodes=8),
    "button": Job("benchmarks.metaworld_state", "button-press-v3", 200, {}, episodes=10),
}
SB3: dict[str, Any] = {
    "n_steps": 2048,
    "batch_size": 64,
    "n_epochs": 10,
    "learning_rate": 3e-4,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "ent_coef": 0.0,
    "vf_coef": 0.5,
    "max_grad_norm": 0.5,
    "policy_kwargs": {"net_arch": [64, 64]},
}
OURS = (
    *("--algorithm", "ppo", "--rewards", "dense", "--curriculum", "uniform"),
    *("--network", "tiny", "--net.hidden", "64", "64", "--net.chunk", "1", "--net.head.std", "1.0"),
    *("--net.head.rho", "0", "--net.head.episode-share", "0"),
    *("--algo.gamma", "0.99", "--algo.gae-lambda", "0.95", "--algo.ppo-epochs", "10"),
    *("--algo.ppo-mini-batch-size", "64", "--algo.target-kl", "0", "--algo.critic-warmup", "0"),
    *("--algo.cliprange-value", "0"),
    *("--learner.lr", "3e-4", "--learner.critic-lr", "3e-4", "--learner.max-grad-norm", "0.5"),
    *("--train.iterations", "100000", "--train.checkpoint-every", "20"),
)


# ---------------------------------------------------------------------------------- what is shared


def simulator(world: World) -> SimEnv:
    """The world's one environment."""
    arena = world.resolve()
    return arena.simulator(arena.tasks[0])


def held_out(world: World, decide: Callable[[Floats], Floats]) -> dict[str, Any]:
    """Return of every held-out start, and how often success held at the end.

    Args:
        world: Where.
        decide: From states ``[B, S]`` to actions ``[B, A]``.
    """
    envs = [simulator(world) for _ in range(HELD_OUT)]
    for index, env in enumerate(envs):
        env.start(seed_for("eval", index))
    returns, solved = np.zeros(HELD_OUT), np.zeros(HELD_OUT, bool)
    playing = list(range(HELD_OUT))
    while playing:
        actions = decide(np.stack([envs[index].observe().state for index in playing]))
        going_on = []
        for index, action in zip(playing, actions, strict=True):
            outcome = envs[index].advance(action)
            returns[index] += outcome.reward
            solved[index] = outcome.success
            if not (outcome.terminated or outcome.truncated):
                going_on.append(index)
        playing = going_on
    for env in envs:
        env.close()
    return {
        "returns": returns.tolist(),
        "return": float(returns.mean()),
        "success": float(solved.mean()),
    }


def tenths(ended: Sequence[tuple[float, float]], total: int) -> list[float | None]:
    """Mean return of what ended in each tenth of ``total`` steps; None where nothing did.

    Args:
        ended: Steps so far, and return.
        total: Steps in all.
    """
    pieces: list[list[float]] = [[] for _ in range(PIECES)]
    for steps, found in ended:
        pieces[min(int((steps - 1) * PIECES / total), PIECES - 1)].append(found)
    return [float(np.mean(piece)) if piece else None for piece in pieces]


# ------------------------------------------------------------------------------------------- arms


class Seen(gymnasium.Env[Floats, Floats]):
    """The environment as Stable-Baselines3 takes it: a state, and a start from those for training.

    Attributes:
        ended: Steps so far and return of every episode that ended.
    """

    def __init__(self, sim: SimEnv) -> None:
        self._sim = sim
        self.action_space = sim.action_space
        size = (sim.spaces.state_dim,)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, size, np.float32)
        self.ended: list[tuple[float, float]] = []
        self._steps, self._return = 0, 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Go to a start drawn from those for training."""
        super().reset(seed=seed)
        self._sim.start(seed_for("train", int(self.np_random.integers(len(SEED_RANGES["train"])))))
        self._return = 0.0
        return self._sim.observe().state, {}

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Advance."""
        outcome = self._sim.advance(action)
        self._steps += 1
        self._return += outcome.reward
        if outcome.terminated or outcome.truncated:
            self.ended.append((self._steps, self._return))
        state = self._sim.observe().state
        return state, outcome.reward, outcome.terminated, outcome.truncated, {}


def sb3(folder: Path, job: Job, seed: int, env_steps: int, workers: int) -> dict[str, Any]:
    """Stable-Baselines3's PPO."""
    env = Seen(simulator(job.world))
    normalised = VecNormalize(DummyVecEnv([lambda: env]), gamma=SB3["gamma"])
    model = PPO("MlpPolicy", normalised, seed=seed, device="cpu", **SB3)
    began = time.perf_counter()
    model.learn(env_steps)
    seconds = time.perf_counter() - began
    model.save(folder / "model")
    normalised.save(str(folder / "statistics.pkl"))
    normalised.training = False

    def decide(states: Floats) -> Floats:
        actions, _ = model.predict(normalised.normalize_obs(states), deterministic=True)
        return actions

    return {
        **held_out(job.world, decide),
        "curve": tenths(env.ended, model.num_timesteps),
        "env_steps": model.num_timesteps,
        "seconds": seconds,
    }


def ours(folder: Path, job: Job, seed: int, env_steps: int, workers: int) -> dict[str, Any]:
    """``vla-rl train --algorithm ppo``."""
    out = folder / "run"
    if (out / "config.json").exists():
        command("train", "--out", out, "--resume")
    else:
        budget = ("--train.env-steps", str(env_steps), "--seed", str(seed))
        batch = ("--train.episodes-per-iteration", str(job.episodes))
        pool = ("--rollout.workers", str(workers), "--device", "cpu", "--out", out)
        command("train", *job.options, *OURS, *batch, *budget, *pool)
    policy = load_policy(out / "policy")
    instruction, size = job.world.resolve().tasks[0].instruction, policy.spaces.image_size

    def decide(states: Floats) -> Floats:
        images = np.empty((len(states), 0, size, size, 3), np.uint8)
        chunk = policy.act(Observation(images, states), [instruction] * len(states), None)
        actions: Floats = chunk.actions[:, 0]
        return actions

    steps = column(out, "train/env_steps")
    ended = list(zip(steps, column(out, "train/env_reward"), strict=True))
    return {
        **held_out(job.world, decide),
        "curve": tenths(ended, int(steps[-1])),
        "env_steps": int(steps[-1]),
        "seconds": sum(column(out, "time/total")),
    }


ARMS: dict[str, Callable[[Path, Job, int, int, int], dict[str, Any]]] = {"sb3": sb3, "ours": ours}


# ---------------------------------------------------------------------------------------- running


def run_one(given: argparse.Namespace) -> None:
    """One run in this process; its result goes to ``result.json`` of its folder."""
    name, arm, seed = given.one[0], given.one[1], int(given.one[2])
    folder = _folder(given.out, name, arm, seed)
    torch.set_num_threads(1)  # a second one costs networks this small more than it brings
    workers = max(1, cores() // given.jobs)
    found = ARMS[arm](folder, JOBS[name], seed, given.env_steps, workers)
    (folder / "result.json").write_text(json.dumps(found, indent=2) + "\n")


def found_or_run(given: argparse.Namespace, name: str, arm: str, seed: int) -> dict[str, Any]:
    """The result of a run, made in a process of its own unless it is there."""
    folder = _folder(given.out, name, arm, seed)
    result = folder / "result.json"
    if not result.exists():
        folder.mkdir(parents=True, exist_ok=True)
        settings = ("--env-steps", str(given.env_steps), "--jobs", str(given.jobs))
        words = ("--one", name, arm, str(seed), *settings, "--out", str(given.out))
        with (folder / "log.txt").open("w") as log:
            subprocess.run(
                [sys.executable, "-m", "benchmarks.sb3_ppo", *words],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
                check=True,
            )
    found: dict[str, Any] = json.loads(result.read_text())
    print(name, arm, seed, f"{found['return']:.1f}", f"{found['seconds']:.0f} s", flush=True)
    return found


def _folder(out: Path, name: str, arm: str, seed: int) -> Path:
    return out / name / f"{arm}_{seed}"


def sb3_ppo(result: dict[str, Any]) -> str:
    """Return of our PPO and of Stable-Baselines3's."""
    names = {"sb3": "Stable-Baselines3 PPO", "ours": "**vla-rl `ppo`**"}
    rows = [
        ["task", "PPO", "held-out return", "each seed", "training return in tenths", "wall time"]
    ]
    for task, arms in result["tasks"].items():
        for arm, seeds in arms.items():
            over = result["over_seeds"][task].get(arm)
            tenths = zip(*(seed["curve"] for seed in seeds), strict=True)
            known = [[value for value in tenth if value is not None] for tenth in tenths]
            rows.append(
                [
                    f"`{result['worlds'][task][3]}`",
                    names[arm],
                    "{:,.0f} [{:,.0f}, {:,.0f}]".format(*over) if over else "",
                    ", ".join(f"{seed['return']:,.0f}" for seed in seeds),
                    " ".join(f"{fmean(tenth):,.0f}" if tenth else "-" for tenth in known),
                    f"{fmean(seed['seconds'] for seed in seeds) / 60:.1f} min",
                ]
            )
    count = max(len(seeds) for arms in result["tasks"].values() for seeds in arms.values())
    note = (
        f"State only, {result['env_steps']:,} environment steps, "
        f"{number_of_seeds(count).lower()} each; "
        f"mean action on {result['held_out']} held-out starts, mean over seeds with Student's t "
        f"interval; {result['jobs']} runs at once. {origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


TABLES = {"sb3_ppo": sb3_ppo}
"""What writes the tables of results, by their names."""


def main() -> None:
    """Run everything that is not there, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="at least 2, for intervals")
    parser.add_argument("--env-steps", type=int, default=200_000, help="of every run")
    parser.add_argument("--tasks", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, sharing the cores")
    parser.add_argument("--out", type=Path, default=Path("runs/sb3_ppo"))
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        run_one(given)
        return
    # Seeds outside, so that a cut leaves every arm alike.
    runs = [(t, arm, s) for s in range(given.seeds) for t in given.tasks for arm in ARMS]
    with ThreadPoolExecutor(given.jobs) as pool:
        results = list(pool.map(lambda run: found_or_run(given, *run), runs))
    tasks: dict[str, Any] = {name: {arm: [] for arm in ARMS} for name in given.tasks}
    for (name, arm, seed), found in zip(runs, results, strict=True):
        tasks[name][arm].append({"seed": seed, **found})
    over_seeds = {
        name: {
            arm: list(mean_interval([seed["return"] for seed in seeds]))
            for arm, seeds in arms.items()
            if len(seeds) > 1
        }
        for name, arms in tasks.items()
    }
    settings = {
        "env_steps": given.env_steps,
        "held_out": HELD_OUT,
        "jobs": given.jobs,
        "worlds": {name: list(JOBS[name].options) for name in given.tasks},
        "episodes_per_iteration": {name: JOBS[name].episodes for name in given.tasks},
        "sb3": SB3,
        "ours": list(OURS),
    }
    print(write("sb3_ppo", {**settings, "tasks": tasks, "over_seeds": over_seeds}))


if __name__ == "__main__":
    main()
