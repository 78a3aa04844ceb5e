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
from vla_rl.stages.tables import show_comparison, show_kept
from vla_rl.stages.train import Recipe, check_recipe, train_stage
from vla_rl.train import TrainConfig
from vla_rl.types import EpisodeSpec, Task
from vla_rl.world import Arena, World

ENV_STEPS = 450_000  # what two cores do in the minutes; a faster machine is done sooner
STARTS_PER_SEED = 100  # runs of other seeds see other demonstrations


@dataclass(frozen=True)
class Command:
    """The main job: demonstrations, cloning, evaluation, RL, and evaluation again."""

    out: Path = Path("runs/demo")
    """Run folder; everything is written there."""
    resume: bool = False
    """Go on with an interrupted demo: finished stages are kept."""
    world: World = field(default_factory=World)
    """Which tasks, cameras and horizon."""
    demos: tuple[int, ...] = (1, 10, 10)
    """Demonstrations of every task: one number for all, or one for each task."""
    network: str = "vla"
    """Policy network."""
    net: Any = field(default_factory=VLAConfig)
    """Settings of the network."""
    sft: SFTConfig = field(default_factory=SFTConfig)
    """Behaviour cloning."""
    algorithm: str = "dapo"
    """Reinforcement-learning algorithm."""
    algo: Any = field(default_factory=DAPO)
    """Settings of the algorithm."""
    anchor: AnchorConfig = field(default_factory=lambda: AnchorConfig(coef=10.0))
    """Holding on to the demonstrations during RL."""
    curriculum: str = "frontier"
    """Which starts to practise on."""
    rewards: tuple[str, ...] = ("sparse",)
    """Reward models, added up."""
    reward: Any = None
    """Settings of the rewards, each by its name."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    """The optimizer."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            iterations=1000, minutes=3.5, env_steps=ENV_STEPS, checkpoint_every=10
        )
    )
    """The RL loop; whichever of its limits comes first ends it."""
    eval: EvalConfig = field(default_factory=lambda: EvalConfig(max_steps=200))
    """How success is measured, before and after. With a --eval.max-steps that gives time to spare,
    success within the horizon of training is reported beside it."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """How episodes are collected."""
    seed: int = 0
    """Seed of everything that is random: weights, starts, noise and minibatches."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""

    def run(self) -> int:
        """Run every stage and write the report."""
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
        show_kept(run.folder)
        print(f"{minutes:.1f} minutes. One-page summary: {page}")
        return 0

    def _check_validation(self, arena: Arena, counts: list[int]) -> None:
        """Refuse to hold out demonstrations where too few will be recorded."""
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
            # The experts take the time they need; the horizon is for the policy.
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
        # Acts from now on as it will during RL: with a frozen backbone.
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
    """Where the policy's weights are."""
    return policy.state_mean.device
