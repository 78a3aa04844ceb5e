"""``vla-rl ire-vla``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from vla_rl.algorithms.ppo import Algorithm as PPO
from vla_rl.learning.held_out import held_out
from vla_rl.learning.learner import LearnerConfig
from vla_rl.policy import load_policy
from vla_rl.rollout.collector import RolloutConfig
from vla_rl.sft import AnchorConfig, SFTConfig
from vla_rl.stages import run
from vla_rl.stages.ire_vla import METHODS, IReVLAConfig, Procedure
from vla_rl.stages.record import fitting_demos
from vla_rl.stages.setup import (
    curriculum_named,
    open_collector,
    pick_device,
    rewards_named,
)
from vla_rl.stages.train import Recipe, check_recipe, required_demos
from vla_rl.train_config import TrainConfig
from vla_rl.world import Arena, World, read_world


@dataclass(frozen=True)
class Command:
    """Run iRe-VLA (arXiv 2501.16664): for one task after another, RL of the head, then supervised
    learning of backbone and head on demonstrations and the policy's own successes.
    """

    policy: Path
    """Folder of the policy to start from (`vla-rl sft`, stage 0), or its name on the Hugging Face
    hub."""
    demos: Path
    """Folder of the demonstrations that the policy was cloned from (D_e)."""
    out: Path = Path("runs/ire_vla")
    """Run folder with a folder for each task; the final policy goes to OUT/policy."""
    resume: bool = False
    """Resume an interrupted run, also within a stage."""
    world: World = field(default_factory=World)
    """Suite, and tasks to train on, in this order (`--tasks ire-rl` for the split of the paper); by
    default those that the policy was cloned on."""
    ire: Annotated[IReVLAConfig, tyro.conf.arg(name="")] = field(default_factory=IReVLAConfig)
    """Settings of the two stages."""
    algorithm: str = "ppo"
    """Algorithm of stage 1: a name from `vla-rl list algorithms`, or a dotted path."""
    algo: Any = field(default_factory=lambda: PPO(critic_warmup=5))
    """Settings of the algorithm."""
    curriculum: str = "uniform"
    """Curriculum that chooses the starts: `uniform`, `frontier`, or a dotted path."""
    rewards: tuple[str, ...] = ("sparse",)
    """Rewards, which are summed: names from `vla-rl list rewards`, or dotted paths."""
    reward: Any = None
    """Settings of the rewards, `--reward.NAME.FIELD`."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    """Settings of the optimizer of stage 1; the method decides which groups are trained."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Settings of stage 1 of each task. Stage 2 continues from its last policy, even if
    `--train.eval-every` also keeps the best one (in OUT/<number>_<task>/rl/best)."""
    sft: SFTConfig = field(default_factory=lambda: SFTConfig(steps=300, lr=3e-4))
    """Settings of stage 2 of each task."""
    anchor: AnchorConfig = field(default_factory=AnchorConfig)
    """Imitation of all demonstrations during stage 1."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Settings of collecting episodes."""
    seed: int = 0
    """Seed of everything that is random: weights, starts, noise and minibatches."""
    device: str = "auto"
    """Device of the policy: `auto` (a GPU if there is one), `cpu` or `cuda`."""

    def run(self) -> int:
        """Run both stages for every task, and save the policy."""
        learner = self._learner()
        arena = self.world.resolve()
        rewards_named(self.rewards, self.reward)
        demos = fitting_demos(self.demos, arena)
        held_out(demos.specs(), self.sft.validation_share, self.seed)
        if self.anchor.coef > 0:
            required_demos(demos, self.anchor)
        policy = load_policy(self.policy, arena.spaces).to(pick_device(self.device))

        def recipe(arena: Arena, seed: int) -> Recipe:
            return Recipe(
                algorithm=self.algo,
                anchor=self.anchor,
                curriculum=curriculum_named(self.curriculum, arena.tasks, seed),
                rewards=rewards_named(self.rewards, self.reward),
                learner=learner,
                train=self.train,
                seed=seed,
            )

        check_recipe(recipe(arena, self.seed), policy, arena)
        run.new_folder(self.out, self, self.resume)
        with open_collector(arena, self.rollout, policy) as collector:
            procedure = Procedure(
                folder=self.out,
                collector=collector,
                arena=arena,
                demos=demos,
                recipe=recipe,
                config=self.ire,
                sft=self.sft,
                seed=self.seed,
            )
            procedure.run(policy)
        run.save_policy(policy, self._joined(arena), self.out / "policy")
        print(f"policy written to {self.out / 'policy'}")
        return 0

    def _learner(self) -> LearnerConfig:
        wanted = METHODS[self.ire.method].vlm_in_rl
        if self.learner.train_vlm not in (None, wanted):
            raise ValueError(
                f"learner.train_vlm {self.learner.train_vlm} does not fit method "
                f"{self.ire.method!r}, which decides what is trained; leave it out"
            )
        return replace(self.learner, train_vlm=wanted)

    def _joined(self, arena: Arena) -> Arena:
        """The tasks of the demonstrations and of training, for the world of the saved policy."""
        if self.world.instruction is not None or not (self.policy / "world.json").exists():
            return arena
        tasks = read_world(self.policy).resolve().horizons | arena.horizons
        return arena.replaced(tasks=tuple(tasks), max_steps=tuple(tasks.values()))
