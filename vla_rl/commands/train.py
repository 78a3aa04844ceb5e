"""``vla-rl train``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vla_rl import stages
from vla_rl.collector import RolloutConfig
from vla_rl.config import World
from vla_rl.distributed import join
from vla_rl.learner import LearnerConfig
from vla_rl.policy import load_policy
from vla_rl.sft import AnchorConfig
from vla_rl.train import TrainConfig


@dataclass(frozen=True)
class Command:
    """Improve a policy by reinforcement learning from environment rollouts."""

    policy: Path
    """Folder of the policy to start from (`vla-rl sft`)."""
    out: Path = Path("runs/train")
    """Run folder; the improved policy goes to OUT/policy."""
    resume: bool = False
    """Go on from the newest valid checkpoint in OUT."""
    world: World = field(default_factory=World)
    """Which tasks; by default those the policy was cloned on."""
    algorithm: str = "loop"
    """Algorithm: a name that `vla-rl list algorithms` shows, or the dotted path of a module of
    yours."""
    algo: Any = None
    """Settings of the algorithm."""
    demos: Path | None = None
    """Demonstrations to hold on to, if `--anchor.coef` is above 0."""
    anchor: AnchorConfig = field(default_factory=AnchorConfig)
    """Holding on to demonstrations."""
    curriculum: str = "frontier"
    """Which starts to practise on: `uniform`, `frontier`, or a dotted path."""
    rewards: tuple[str, ...] = ("sparse",)
    """Reward models, added up: names that `vla-rl list rewards` shows, or dotted paths."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    """The optimizer."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The loop."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """How episodes are collected."""
    seed: int = 0
    """Of starts, noise and minibatches."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""

    def run(self) -> int:
        """Train, with checkpoints, and save."""
        if self.anchor.coef > 0 and self.demos is None:
            raise ValueError(f"anchor.coef {self.anchor.coef} needs --demos to hold on to")
        spaces = stages.checked_spaces(self.world)
        recipe = stages.Recipe(
            algorithm=self.algo,
            anchor=self.anchor,
            curriculum=stages.curriculum_named(self.curriculum, self.world, self.seed),
            rewards=stages.rewards_named(self.rewards),
            learner=self.learner,
            train=self.train,
            seed=self.seed,
        )
        device = stages.pick_device(self.device)
        with join(device) as ranks:
            policy = load_policy(self.policy, spaces).to(device)
            demos = stages.fitting_demos(self.demos, self.world) if self.demos else None
            run = stages.new_run(self.out, self, self.resume, ranks)
            with stages.open_collector(self.world, self.rollout, policy, ranks) as collector:
                stages.improve_stage(
                    run, collector, policy, self.world, recipe, demos, self.resume, ranks
                )
            folder = run.folder / "policy"
            ranks.only_main(lambda: stages.save_policy(policy, self.world, folder))
            if ranks.is_main:
                print(f"policy written to {folder}")
        return 0
