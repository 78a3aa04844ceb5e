"""iRe-VLA and its baselines: success on expert, RL and unseen tasks, as in the paper's tables.

Every seed has its own demonstrations of the expert tasks, from which one policy is cloned (stage
0). It is then improved on the RL tasks, which have no demonstrations, one after the other; unseen
tasks are only evaluated. Success is measured after the last RL task, on starts never trained on.

    python -m benchmarks.ire_vla [--size metaworld] [--seeds 3] [--at-once 1] [--out runs/ire_vla]

``metaworld`` and ``kitchen`` are what two cores can do; the ``-full`` sizes are the paper's splits,
for a GPU.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks._cost import run
from benchmarks._markdown import if_one_horizon, origin, percent, points, table, within
from benchmarks._record import write
from benchmarks._runs import both
from vla_rl.results.evaluation import EvalResult
from vla_rl.results.intervals import mean_interval
from vla_rl.rollout.worker_pool import cores
from vla_rl.world import World

GROUPS = ("expert", "rl", "unseen")
_LOOP = ("--algorithm", "loop")
_PPO = ("--algorithm", "ppo", "--algo.critic-warmup", "5")  # with fewer it fell to 0 in a trial
ARMS: dict[str, tuple[str, ...]] = {
    "replay": (*_LOOP, "--method", "replay"),
    "freeze": (*_LOOP, "--method", "freeze"),
    "ire_vla": (*_LOOP, "--method", "ire_vla"),
    "ire_vla, greedy successes": (*_LOOP, "--method", "ire_vla", "--own-actions", "greedy"),
    "ire_vla, PPO": (*_PPO, "--method", "ire_vla"),
}


@dataclass(frozen=True)
class Size:
    """Tasks and budgets.

    Attributes:
        suite: Suite.
        expert: Tasks or splits with demonstrations.
        rl: Those to practise on.
        unseen: Those that are only evaluated.
        demos: Demonstrations of each expert task.
        horizon: Environment steps of an episode.
        generous: Environment steps of an episode of the evaluation.
        network: Options of the network.
        sft: Options of stage 0 besides the shared ones.
        consolidate: Options of stage 2 besides the shared ones.
        practice: Options of stage 1.
        imitation: Options of both supervised stages.
    """

    suite: str
    expert: tuple[str, ...]
    rl: tuple[str, ...]
    unseen: tuple[str, ...]
    demos: int
    horizon: int
    generous: int
    sft: tuple[str, ...]
    consolidate: tuple[str, ...]
    practice: tuple[str, ...]
    imitation: tuple[str, ...]
    network: tuple[str, ...] = ()


_OFTEN = (
    *("--learner.lr", "2e-4", "--learner.vlm-lr", "2e-4", "--algo.target-kl", "0.1"),
    *("--train.episodes-per-iteration", "64"),
    *("--train.iterations", "100000", "--train.checkpoint-every", "20"),
)
_VLM = (
    *(
        "--net.backbone",
        "vlm:HuggingFaceTB/SmolVLM-256M-Instruct",
        "--net.backbone.lora-rank",
        "32",
    ),
    *("--net.backbone.size", "128", "--net.backbone.layers", "16"),
)
SIZES = {
    "metaworld": Size(
        suite="metaworld",
        expert=(
            *("drawer-open-v3", "door-open-v3", "window-open-v3", "window-close-v3"),
            "button-press-v3",
        ),
        rl=("drawer-open-new", "window-open-new", "button-press-new"),
        unseen=(
            *("drawer-open-other", "door-open-other", "window-open-other", "window-close-other"),
            "button-press-other",
        ),
        demos=10,
        horizon=150,
        generous=300,
        sft=("--sft.steps", "1000"),
        consolidate=("--sft.steps", "400", "--sft.lr", "3e-4"),
        practice=(*_OFTEN, "--train.env-steps", "120000"),
        imitation=("--sft.colour-jitter", "0.5"),
    ),
    "metaworld-full": Size(
        suite="metaworld",
        expert=("ire-expert",),
        rl=("ire-rl",),
        unseen=("ire-unseen",),
        demos=50,
        horizon=200,
        generous=500,
        sft=("--sft.steps", "20000", "--sft.lr", "2e-4"),
        consolidate=("--sft.steps", "4000", "--sft.lr", "1e-4"),
        practice=(*_OFTEN, "--train.env-steps", "500000"),
        imitation=("--sft.colour-jitter", "0.2"),
        network=_VLM,
    ),
    "kitchen": Size(
        suite="franka_kitchen",
        expert=("ire-expert",),
        rl=("slide-cabinet-red",),
        unseen=("slide-cabinet-yellow",),
        demos=20,
        horizon=80,
        generous=200,
        sft=("--sft.steps", "1200"),
        consolidate=("--sft.steps", "400", "--sft.lr", "3e-4"),
        practice=(*_OFTEN, "--train.env-steps", "100000"),
        imitation=("--sft.colour-jitter", "0.5"),
        network=("--net.chunk", "5", "--net.head.std", "0.04"),
    ),
    "kitchen-full": Size(
        suite="franka_kitchen",
        expert=("ire-expert",),
        rl=("ire-rl",),
        unseen=("ire-unseen",),
        demos=50,
        horizon=80,
        generous=200,
        sft=("--sft.steps", "20000", "--sft.lr", "2e-4"),
        consolidate=("--sft.steps", "4000", "--sft.lr", "1e-4"),
        practice=(*_OFTEN, "--train.env-steps", "500000"),
        imitation=("--sft.colour-jitter", "0.2"),
        network=(*_VLM, "--net.chunk", "5", "--net.head.std", "0.04"),
    ),
}


def clone(folder: Path, size: Size, seed: int, workers: int) -> Path:
    """Demonstrations of a seed in ``folder/demos`` and the policy cloned from them, stage 0."""
    demos, sft = folder / "demos", folder / "sft"
    first = ("--episodes", str(size.demos), "--first", str(100 * seed))
    pool = ("--rollout.workers", str(workers))
    tasks = ("--suite", size.suite, "--tasks", *size.expert)
    run(folder / "demos_cost.json", "record", *tasks, *first, *pool, "--out", demos)
    learn = ("--max-steps", str(size.horizon), "--seed", str(seed), "--demos", demos)
    how = (*size.network, *size.imitation, *size.sft)
    run(folder / "sft_cost.json", "sft", *learn, *how, "--out", sft)
    return sft / "policy"


def improved(folder: Path, size: Size, arm: str, seed: int, workers: int) -> Path:
    """The policy of an arm after its last RL task."""
    out = folder / arm.replace(", ", "_").replace(" ", "_")
    world = ("--tasks", *size.rl, "--max-steps", str(size.horizon), "--seed", str(seed))
    how = (*size.practice, *size.imitation, *size.consolidate, *ARMS[arm])
    resume = ("--resume",) if (out / "config.json").exists() else ()
    words: list[str | Path] = ["--policy", folder / "sft" / "policy", "--demos", folder / "demos"]
    words += [*world, *how, *resume, "--rollout.workers", str(workers), "--out", out]
    run(out.with_name(f"{out.name}_cost.json"), "ire-vla", *words)
    return out / "policy"


def evaluated(policy: Path, size: Size, episodes: int, workers: int) -> EvalResult:
    """Success on all tasks."""
    name = f"eval_{size.generous}"
    out = policy.parent / f"{name}.json"
    tasks = (*size.expert, *size.rl, *size.unseen)
    words = ("--tasks", *tasks, "--max-steps", str(size.horizon))
    time = ("--eval.max-steps", str(size.generous))
    count = ("--eval.episodes-per-task", str(episodes), "--rollout.workers", str(workers))
    note = policy.parent / f"{name}_cost.json"
    run(note, "eval", "--policy", policy, "--out", out, *words, *time, *count)
    return EvalResult.from_json(out.read_text())


def both_rates(size: Size, result: EvalResult) -> dict[str, float]:
    """:func:`rates` within the horizon of training, and of the groups within the generous one."""
    short, generous = both(result)
    with_time = rates(size, generous)
    return {**rates(size, short), **{f"generous_{group}": with_time[group] for group in GROUPS}}


def rates(size: Size, result: EvalResult) -> dict[str, float]:
    """Mean success over the tasks of each group, and every task."""
    every = {task: found.rate.value for task, found in result.tasks.items()}
    means = {}
    for group in GROUPS:
        ids = World(suite=size.suite, tasks=vars(size)[group], max_steps=None).task_ids()
        means[group] = sum(every[task] for task in ids) / len(ids)
    return {**means, **every}


def gain(after: list[dict[str, float]], before: list[dict[str, float]], name: str) -> list[float]:
    """Mean difference over seeds with its interval; each seed against its own clone."""
    return list(mean_interval([a[name] - b[name] for a, b in zip(after, before, strict=True)]))


IRE_VLA_PAPER = {
    # arXiv 2501.16664, figure 5: Meta-World, success on expert, RL and unseen tasks.
    "metaworld": {
        "sft": (0.83, 0.41, 0.51),
        "replay": (0.69, 0.35, 0.39),
        "freeze": (0.75, 0.79, 0.61),
        "ire_vla": (0.84, 0.89, 0.81),
    },
    # Table I: Kitchen, mean over its five expert tasks, then the red and the yellow slide door.
    "franka_kitchen": {
        "sft": (0.758, 0.46, 0.98),
        "replay": (0.51, 0.30, 0.64),
        "ire_vla": (0.904, 0.99, 1.0),
    },
}


def ire_vla(result: dict[str, Any]) -> str:
    """Success by group of tasks after the last RL task, the paper's beside."""
    groups = ("expert", "rl", "unseen")
    paper = IRE_VLA_PAPER[result["suite"]]
    several = bool(result["over_seeds"])
    timed = "generous" in result
    later = [f"the same {within(result['generous'])}"] if timed else []
    gains = ["RL over SFT, points", "each seed, RL", *later, "paper"]
    rows = [["method", "expert", "RL", "unseen", *gains]]
    for arm, seeds in result["arms"].items():
        means = result["over_seeds"].get(arm)
        found = [percent(means[g]) if several else f"{100 * seeds[0][g]:.0f} %" for g in groups]
        gain = points(result["over_sft"][arm]["rl"]) if arm in result["over_sft"] else ""
        each = ", ".join(f"{100 * seed['rl']:.0f}" for seed in seeds)
        said = " / ".join(f"{100 * share:.0f}" for share in paper[arm]) if arm in paper else ""
        with_time = [
            " / ".join(f"{100 * fmean(s[f'generous_{g}'] for s in seeds):.0f}" for g in groups)
            for _ in later
        ]
        name = f"**{arm}**" if arm == "ire_vla" else arm
        rows.append([name, *found, gain, each, *with_time, said])
    over = "means over seeds with Student's t interval" if several else "one seed"
    note = (
        f"Expert: {', '.join(result['expert'])}; RL: {', '.join(result['rl'])}; unseen: "
        f"{', '.join(result['unseen'])}. {result['demos']} demonstrations of each expert task, "
        f"horizon {result['horizon']}, {result['practice'][-1]} environment steps of RL (LOOP "
        f"where no other is named) on each RL task; {result['episodes']} held-out starts of each "
        f"task, {over}. {if_one_horizon(result)}{origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


TABLES = {"ire_vla_metaworld": ire_vla, "ire_vla_kitchen": ire_vla}
"""What writes the tables of results, by their names."""


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="metaworld")
    parser.add_argument("--seeds", type=int, default=3, help="at least 2, for intervals")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--episodes", type=int, default=50, help="held-out starts of each task")
    parser.add_argument("--at-once", type=int, default=1, help="runs at once, sharing the cores")
    parser.add_argument("--out", type=Path, default=Path("runs/ire_vla"))
    given = parser.parse_args()
    size = SIZES[given.size]
    workers = max(1, cores() // given.at_once)
    folders = [given.out / given.size / f"seed{seed}" for seed in range(given.seeds)]

    def measured(job: tuple[int, str]) -> dict[str, float]:
        seed, arm = job
        policy = folders[seed] / "sft" / "policy"
        if arm == "sft":
            clone(folders[seed], size, seed, workers)
        else:
            policy = improved(folders[seed], size, arm, seed, workers)
        found = both_rates(size, evaluated(policy, size, given.episodes, workers))
        print(seed, arm, {group: round(found[group], 3) for group in GROUPS}, flush=True)
        return found

    found: dict[str, list[dict[str, float]]] = {}
    with ThreadPoolExecutor(given.at_once) as pool:
        found["sft"] = list(pool.map(measured, [(s, "sft") for s in range(given.seeds)]))
        jobs = [(seed, arm) for seed in range(given.seeds) for arm in given.arms]
        for (_, arm), result in zip(jobs, pool.map(measured, jobs), strict=True):
            found.setdefault(arm, []).append(result)
    means = {
        arm: {name: list(mean_interval([seed[name] for seed in seeds])) for name in seeds[0]}
        for arm, seeds in found.items()
        if given.seeds > 1
    }
    gains = {
        arm: {name: gain(seeds, found["sft"], name) for name in GROUPS}
        for arm, seeds in found.items()
        if given.seeds > 1 and arm != "sft"
    }
    settings: dict[str, Any] = {"episodes": given.episodes, **asdict(size)}
    result = settings | {"arms": found, "over_seeds": means, "over_sft": gains}
    print(write(f"ire_vla_{given.size}", result))


if __name__ == "__main__":
    main()
