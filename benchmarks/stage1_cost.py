"""Cost of a gradient step of stage 1 of iRe-VLA, with cached features and without.

Both learn the head and a critic by the same loss from the same decisions of one task of Meta-World,
with the backbone frozen. Cached features were computed when the policy acted; without them the
backbone processes the images in every step.

    python -m benchmarks.stage1_cost [--rows 128] [--seconds 20]
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from benchmarks._markdown import origin, per_second_text, table
from benchmarks._record import write
from benchmarks._speed import peak_gb, per_second
from vla_rl.config import kinds
from vla_rl.envs import metaworld
from vla_rl.learning.learner import Learner, LearnerConfig
from vla_rl.policies import vla
from vla_rl.policies._backbones.config import AnyBackbone
from vla_rl.rollout.collector import RolloutConfig, episode_keys
from vla_rl.rollout.local_collector import LocalCollector
from vla_rl.rollout.play import PlaySettings
from vla_rl.types import Group, RolloutBatch
from vla_rl.world import World

WORLD = World(tasks=("drawer-open-v3",), max_steps=(100,))
BACKBONES = {
    "conv": "four convolutions per view from scratch",
    "timm:tf_efficientnet_lite0": "EfficientNet-Lite0",
    "timm:vit_small_patch14_dinov2": "DINOv2-small, ten blocks",
}


def measure(vision: str, keeps: bool, rows: int, seconds: float) -> dict[str, Any]:
    """One case, in its own process."""
    policy, batch = _played(kinds(AnyBackbone)[vision.partition(":")[0]](vision), rows)
    learner = Learner(policy, LearnerConfig(), ("head", "critic"))
    found: dict[str, Any] = {"memory_before_gb": peak_gb()}
    if not keeps:
        policy.frozen = frozenset()  # it looks again; its parameters still take no gradient
    decisions = np.argwhere(batch.valid)[:rows]

    def step() -> None:
        scores = learner.evaluate(batch, decisions)
        learner.accumulate(scores.value.square().mean() - scores.logprob.mean())
        learner.step()

    scores = learner.evaluate(batch, decisions)
    (scores.value.square().mean() - scores.logprob.mean()).backward()
    gradient = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
    learner.optimizer.zero_grad(set_to_none=True)
    found["gradient"] = gradient.cpu().numpy()
    found["steps_per_second"] = per_second(step, seconds)
    found["peak_gb"] = peak_gb()
    return found


def _played(backbone: Any, rows: int) -> tuple[vla.Policy, RolloutBatch]:
    """A policy with its backbone frozen, and episodes of it with features and images."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = metaworld.Settings()
    policy = vla.Policy(vla.Config(backbone=backbone), metaworld.spaces(settings)).to(device)
    policy.remember([task.instruction for task in WORLD.resolve().tasks])
    policy.freeze({"vlm"})
    count = -(-rows // 10)  # an episode that is not solved takes ten decisions
    specs = WORLD.resolve().specs("train", count)
    with LocalCollector("metaworld", settings, RolloutConfig(), device) as collector:
        keys = episode_keys(0, "cost", count=count)
        played = collector.collect(policy, specs, keys, PlaySettings(keep_images=True))
    groups: list[Group] = [[t] for t in played.trajectories]
    return policy, RolloutBatch.pack(groups)


def stage1_cost(result: dict[str, Any]) -> str:
    """Rate and memory of updates with cached features and without."""
    rows = [["backbone", "looking again", "kept features", "times", "memory", "gradients apart"]]
    for found in result["backbones"].values():
        kept, again = found["kept"], found["again"]
        rows.append(
            [
                found["about"],
                f"{per_second_text(again['steps_per_second'])} steps/s",
                f"{per_second_text(kept['steps_per_second'])} steps/s",
                f"{per_second_text(found['times'])}",
                f"{again['peak_gb']:.2f} → {kept['peak_gb']:.2f} GB",
                f"{found['gradients_apart']:.1e}",
            ]
        )
    note = (
        f"Gradient steps of head and critic on {result['rows']} decisions, two 64 px views; memory "
        "is the most that the process held; gradients by the norm of their difference, as features "
        f"are kept in half precision. {origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


TABLES = {"stage1_cost": stage1_cost}
"""What writes the tables of results, by their names."""


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=128, help="decisions in a gradient step")
    parser.add_argument("--seconds", type=float, default=20.0, help="of every case")
    given = parser.parse_args()
    backbones: dict[str, Any] = {}
    for vision, about in BACKBONES.items():
        cases = {}
        for name, keeps in (("kept", True), ("again", False)):
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                job = pool.submit(measure, vision, keeps, given.rows, given.seconds)
                cases[name] = job.result()
        kept, again = (cases[name].pop("gradient") for name in ("kept", "again"))
        apart = float(np.linalg.norm(kept - again) / np.linalg.norm(again))
        speedup = cases["kept"]["steps_per_second"] / cases["again"]["steps_per_second"]
        backbones[vision] = {"about": about, **cases, "times": speedup, "gradients_apart": apart}
        print(vision, backbones[vision], flush=True)
    print(write("stage1_cost", {"rows": given.rows, "backbones": backbones}))


if __name__ == "__main__":
    main()
