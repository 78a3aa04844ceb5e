"""``vla-rl train``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vla_rl.learning.distributed import join
from vla_rl.learning.learner import LearnerConfig
from vla_rl.policies._heads.config import GaussianConfig
from vla_rl.policies.vla import Config as VLAConfig
from vla_rl.policy import PolicyBase, load_policy
from vla_rl.rollout.collector import RolloutConfig
from vla_rl.sft import AnchorConfig
from vla_rl.stages.record import fitting_demos
from vla_rl.stages.run import new_run, save_policy
from vla_rl.stages.setup import (
    curriculum_named,
    fit_state_statistics,
    new_policy,
    open_collector,
    pick_device,
    rewards_named,
)
from vla_rl.stages.tables import show_kept_policies
from vla_rl.stages.train import Recipe, check_recipe, required_demos, train_stage
from vla_rl.train_config import TrainConfig
from vla_rl.types import Spaces
from vla_rl.world import World


@dataclass(frozen=True)
class Command:
    """Improve a policy by reinforcement learning from environment rollouts."""

    policy: Path | None = None
    """Folder of the policy to start from (`vla-rl sft`), or its name on the Hugging Face hub
    (`user/name`, `user/name@revision`); by default a new policy with fresh weights."""
    network: str = "vla"
    """Network of a new policy: a name from `vla-rl list policies`, or a dotted path."""
    net: Any = field(default_factory=lambda: VLAConfig(head=GaussianConfig(std=0.5)))
    """Settings of a new policy's network."""
    out: Path = Path("runs/train")
    """Run folder; the improved policy goes to OUT/policy and, with `--train.eval-every`, the best
    one on validation starts to OUT/best."""
    resume: bool = False
    """Resume from the newest valid checkpoint in OUT."""
    world: World = field(default_factory=World)
    """Suite, tasks, cameras and horizon; by default those that the policy was cloned on."""
    algorithm: str = "loop"
    """Algorithm: a name from `vla-rl list algorithms`, or a dotted path."""
    algo: Any = None
    """Settings of the algorithm."""
    demos: Path | None = None
    """Folder of demonstrations to imitate during RL, of any tasks, if `--anchor.coef` is above
    0."""
    anchor: AnchorConfig = field(default_factory=AnchorConfig)
    """Imitation of demonstrations during RL."""
    curriculum: str = "frontier"
    """Curriculum that chooses the starts: `uniform`, `frontier`, or a dotted path."""
    rewards: tuple[str, ...] = ("sparse",)
    """Rewards, which are summed: names from `vla-rl list rewards`, or dotted paths."""
    reward: Any = None
    """Settings of the rewards, `--reward.NAME.FIELD`."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    """Settings of the optimizer."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Settings of the training loop."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Settings of collecting episodes."""
    seed: int = 0
    """Seed of starts, noise and minibatches."""
    device: str = "auto"
    """Device of the policy: `auto` (a GPU if there is one), `cpu` or `cuda`."""

    def run(self) -> int:
        """Train the policy with checkpoints, and save it."""
        arena = self.world.resolve()
        spaces = arena.spaces
        recipe = Recipe(
            algorithm=self.algo,
            anchor=self.anchor,
            curriculum=curriculum_named(self.curriculum, arena.tasks, self.seed),
            rewards=rewards_named(self.rewards, self.reward),
            learner=self._learner(),
            train=self.train,
            seed=self.seed,
        )
        device = pick_device(self.device)
        with join(device) as ranks:
            policy = self._start(spaces, device)
            demos = fitting_demos(self.demos, arena) if self.demos else None
            check_recipe(recipe, policy, arena)
            if self.anchor.coef > 0:
                required_demos(demos, self.anchor)
            run = new_run(self.out, self, self.resume, ranks)
            with open_collector(arena, self.rollout, policy, ranks) as collector:
                warm_up = None
                if self.policy is None:
                    warm_up = fit_state_statistics(collector, policy, arena, self.seed)
                train_stage(
                    *(run, collector, policy, arena, recipe, demos, self.resume, ranks),
                    warm_up=warm_up,
                )
            folder = run.folder / "policy"
            ranks.on_main(lambda: save_policy(policy, arena, folder))
            if ranks.is_main:
                print(f"policy written to {folder}")
                show_kept_policies(run.folder)
        return 0

    def _learner(self) -> LearnerConfig:
        if self.learner.train_vlm is not None:
            return self.learner
        return replace(self.learner, train_vlm=self.policy is None)

    def _start(self, spaces: Spaces, device: str) -> PolicyBase:
        if self.policy is None:
            return new_policy(self.network, self.net, spaces, self.seed, device)
        return load_policy(self.policy, spaces).to(device)
