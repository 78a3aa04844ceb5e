"""``vla-rl demo``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vla_rl.algorithms.dapo import Algorithm as DAPO
from vla_rl.demos.demo_set import DemoSet
from vla_rl.evaluate import EvalConfig, with_protocol
from vla_rl.learning.held_out import held_out
from vla_rl.learning.learner import LearnerConfig
from vla_rl.policies.vla import Config as VLAConfig
from vla_rl.policy import PolicyBase, load_policy
from vla_rl.results.evaluation import EvalResult
from vla_rl.rollout.collector import Collector, RolloutConfig
from vla_rl.rollout.worker_pool import cores
from vla_rl.sft import AnchorConfig, SFTConfig
from vla_rl.stages import report
from vla_rl.stages.evaluate import evaluate_stage
from vla_rl.stages.record import episodes_by_task, new_demos, record_stage
from vla_rl.stages.run import RunFolder, new_run, save_policy
from vla_rl.stages.setup import (
    curriculum_named,
    new_policy,
    open_collector,
    rewards_named,
)
from vla_rl.stages.sft import sft_stage
from vla_rl.stages.tables import show_comparison, show_kept_policies
from vla_rl.stages.train import Recipe, check_recipe, train_stage
from vla_rl.train_config import TrainConfig
from vla_rl.types import EpisodeSpec, Task
from vla_rl.world import Arena, World

ENV_STEPS = 450_000  # about what two cores reach in that time; a faster machine stops earlier
STARTS_PER_SEED = 100  # so that runs with different seeds have different demonstrations


@dataclass(frozen=True)
class Command:
    """Run the main job: record, clone, evaluate, improve by RL, and evaluate again."""

    out: Path = Path("runs/demo")
    """Run folder; all results are written there."""
    resume: bool = False
    """Resume an interrupted demo; finished stages are not repeated."""
    world: World = field(default_factory=World)
    """Suite, tasks, cameras and horizon."""
    demos: tuple[int, ...] = (1, 10, 10)
    """Number of demonstrations: one for all tasks, or one for each task."""
    network: str = "vla"
    """Policy network: a name from `vla-rl list policies`, or a dotted path."""
    net: Any = field(default_factory=VLAConfig)
    """Settings of the network."""
    sft: SFTConfig = field(default_factory=SFTConfig)
    """Settings of behaviour cloning."""
    algorithm: str = "dapo"
    """Algorithm: a name from `vla-rl list algorithms`, or a dotted path."""
    algo: Any = field(default_factory=DAPO)
    """Settings of the algorithm."""
    anchor: AnchorConfig = field(default_factory=lambda: AnchorConfig(coef=10.0))
    """Imitation of the demonstrations during RL."""
    curriculum: str = "frontier"
    """Curriculum that chooses the starts: `uniform`, `frontier`, or a dotted path."""
    rewards: tuple[str, ...] = ("sparse",)
    """Rewards, which are summed: names from `vla-rl list rewards`, or dotted paths."""
    reward: Any = None
    """Settings of the rewards, `--reward.NAME.FIELD`."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    """Settings of the optimizer."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            iterations=1000, minutes=3.5, env_steps=ENV_STEPS, checkpoint_every=10
        )
    )
    """Settings of the RL loop, which stops at the first of its limits."""
    eval: EvalConfig = field(default_factory=lambda: EvalConfig(max_steps=200))
    """Settings of the evaluations before and after RL. If --eval.max-steps is longer than the
    horizon of training, success within that horizon is reported as well."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Settings of collecting episodes."""
    seed: int = 0
    """Seed of everything that is random: weights, starts, noise and minibatches."""
    device: str = "auto"
    """Device of the policy: `auto` (a GPU if there is one), `cpu` or `cuda`."""

    def run(self) -> int:
        """Run all stages and write the report."""
        began = time.perf_counter()
        arena = self.world.resolve()
        spaces = arena.spaces
        counts = episodes_by_task(arena.tasks, self.demos)
        self._check_validation(arena, counts)
        with_protocol(arena, self.eval)
        recipe = Recipe(
            algorithm=self.algo,
            anchor=self.anchor,
            curriculum=curriculum_named(self.curriculum, arena.tasks, self.seed),
            rewards=rewards_named(self.rewards, self.reward),
            learner=self.learner,
            train=self.train,
            seed=self.seed,
        )
        clone = new_policy(self.network, self.net, spaces, self.seed, self.device)
        check_recipe(recipe, clone, arena)
        run = new_run(self.out, self, self.resume)
        with open_collector(arena, self.rollout, clone) as collector:
            demos = self._record(run, collector, arena, counts)
            clone = self._clone(run, clone, arena, demos)
            before = self._evaluate(run, collector, clone, arena, "before")
            policy = load_policy(run.folder / "sft" / "policy", spaces).to(device_of(clone))
            train_stage(run, collector, policy, arena, recipe, demos, self.resume)
            save_policy(policy, arena, run.folder / "policy")
            after = self._evaluate(run, collector, policy, arena, "after")
            video = report.film(run, collector, arena, (clone, policy), before, after)
        minutes = (time.perf_counter() - began) / 60
        facts = self._facts(arena.tasks, counts, minutes)
        page = report.write_report(run, arena, facts, before, after, video)
        show_comparison(before, after)
        show_kept_policies(run.folder)
        print(f"{minutes:.1f} minutes. One-page summary: {page}")
        return 0

    def _check_validation(self, arena: Arena, counts: list[int]) -> None:
        """Check that enough demonstrations will be recorded to hold some out."""
        starts = [
            EpisodeSpec(task, start)
            for task, count in zip(arena.tasks, counts, strict=True)
            for start in range(count)
        ]
        held_out(starts, self.sft.validation_share, self.seed)

    def _record(
        self, run: RunFolder, collector: Collector, arena: Arena, counts: list[int]
    ) -> DemoSet:
        demos = new_demos(run.folder / "demos", arena, append=True)
        if not len(demos):
            first = STARTS_PER_SEED * self.seed
            # The experts may take longer; the horizon is only for the policy.
            record_stage(collector, demos, arena.replaced(max_steps=None), counts, first)
        return demos

    def _clone(
        self, run: RunFolder, policy: PolicyBase, arena: Arena, demos: DemoSet
    ) -> PolicyBase:
        cloning = RunFolder(run.folder / "sft", run.metrics)
        folder = cloning.folder / "policy"
        if folder.exists():
            return load_policy(folder, policy.spaces).to(device_of(policy))
        sft_stage(cloning, policy, demos, arena, self.sft, self.seed, self.resume)
        # From now on it acts as during RL, with a frozen backbone.
        policy.freeze({"vlm"})
        save_policy(policy, arena, folder)
        return policy

    def _evaluate(
        self, run: RunFolder, collector: Collector, policy: PolicyBase, arena: Arena, when: str
    ) -> EvalResult:
        path = run.folder / f"eval_{when}.json"
        if path.exists() and when == "before":
            return EvalResult.from_json(path.read_text())
        title = f"evaluate {when} RL"
        result, _ = evaluate_stage(collector, policy, arena, self.eval, title)
        path.write_text(result.to_json())
        return result

    def _facts(
        self, tasks: Sequence[Task], counts: Sequence[int], minutes: float
    ) -> dict[str, str]:
        return {
            "tasks": ", ".join(
                f"{t.id} ({n} demonstrations)" for t, n in zip(tasks, counts, strict=True)
            ),
            "horizon of training": ", ".join(str(t.max_steps) for t in tasks)
            + " environment steps",
            "policy": f"{self.network}, chunks of {self.net.chunk} actions",
            "algorithm": f"{self.algorithm}, groups of {self.algo.group_size}",
            "rewards": ", ".join(self.rewards),
            "curriculum": self.curriculum,
            "seed": str(self.seed),
            "wall time": f"{minutes:.1f} minutes on {cores()} cores ({self.device})",
        }


def device_of(policy: PolicyBase) -> torch.device:
    """Device of the policy's weights."""
    return policy.state_mean.device
