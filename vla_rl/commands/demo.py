"""``vla-rl demo``."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vla_rl import stages
from vla_rl.algorithms.loop import Algorithm as Loop
from vla_rl.collector import RolloutConfig
from vla_rl.config import World
from vla_rl.evaluate import EvalConfig
from vla_rl.learner import LearnerConfig
from vla_rl.policies.vla import Config as VLAConfig
from vla_rl.sft import SFTConfig
from vla_rl.train import TrainConfig


@dataclass(frozen=True)
class Command:
    """The main job: demonstrations, cloning, evaluation, RL, and evaluation again."""

    out: Path = Path("runs/demo")
    """Run folder; everything is written there."""
    resume: bool = False
    """Go on with an interrupted demo: finished stages are kept."""
    world: World = field(default_factory=World)
    """Which tasks, cameras and horizon."""
    demos: tuple[int, ...] = (2, 2, 10)
    """Demonstrations of every task: one number for all, or one for each task."""
    network: str = "vla"
    """Policy network."""
    net: Any = field(default_factory=VLAConfig)
    """Settings of the network."""
    sft: SFTConfig = field(default_factory=SFTConfig)
    """Behaviour cloning."""
    algorithm: str = "loop"
    """Reinforcement-learning algorithm."""
    algo: Any = field(default_factory=Loop)
    """Settings of the algorithm."""
    curriculum: str = "frontier"
    """Which starts to practise on."""
    rewards: tuple[str, ...] = ("sparse",)
    """Reward models, added up."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    """The optimizer."""
    train: TrainConfig = field(default_factory=lambda: TrainConfig(iterations=60, minutes=3.0))
    """The RL loop."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """How success is measured, before and after."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """How episodes are collected."""
    seed: int = 0
    """Of everything."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""

    def run(self) -> int:
        """Run every stage and write the report."""
        began = time.perf_counter()
        spaces = stages.checked_spaces(self.world)
        counts = stages.episodes_by_task(self.world, self.demos)
        recipe = stages.rl_recipe(self)
        policy = stages.new_policy(self.network, self.net, spaces, self.seed, self.device)
        run = stages.new_run(self.out, self, self.resume)
        with stages.open_collector(self.world, self.rollout, policy) as collector:
            policy = stages.demonstrated_clone(run, collector, policy, self, counts)
            before, clips_before = stages.measured(run, collector, policy, self, "before")
            stages.improve_stage(run, collector, policy, self.world, recipe, self.resume)
            stages.save_policy(policy, self.world, run.folder / "policy")
            after, clips_after = stages.measured(run, collector, policy, self, "after")
            stages.film(run, collector, self.world, clips_before, clips_after)
        stages.write_report(run, before, after, time.perf_counter() - began)
        return 0
