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
from vla_rl.train import TrainConfig
from vla_rl.world import Arena, World, read_world


@dataclass(frozen=True)
class Command:
    """iRe-VLA: RL of the head on one task after another, each followed by supervised learning of
    backbone and head on demonstrations and own successes (arXiv 2501.16664).
    """

    policy: Path
    """Folder of the policy to start from (`vla-rl sft`, stage 0), or its name on the Hugging Face
    hub."""
    demos: Path
    """The demonstrations that it was cloned from, D_e."""
    out: Path = Path("runs/ire_vla")
    """Run folder; each task has a folder in it, and the last policy goes to OUT/policy."""
    resume: bool = False
    """Go on with an interrupted run, in the middle of a stage where it was."""
    world: World = field(default_factory=World)
    """Which tasks to practise, in this order (`--tasks ire-rl` for the suite's own choice); by
    default those that the policy was cloned on."""
    ire: Annotated[IReVLAConfig, tyro.conf.arg(name="")] = field(default_factory=IReVLAConfig)
    """The two stages."""
    algorithm: str = "ppo"
    """Algorithm of stage 1: a name that `vla-rl list algorithms` shows, or a dotted path."""
    algo: Any = field(default_factory=lambda: PPO(critic_warmup=5))
    """Settings of the algorithm."""
    curriculum: str = "uniform"
    """Which starts to practise on: `uniform`, `frontier`, or a dotted path."""
    rewards: tuple[str, ...] = ("sparse",)
    """Reward models, added up: names that `vla-rl list rewards` shows, or dotted paths."""
    reward: Any = None
    """Settings of the rewards, each by its name."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    """The optimizer of stage 1; which groups learn is up to the method."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Stage 1 of each task. Stage 2 goes on from its last policy, also where `--train.eval-every`
    keeps the best one (in OUT/<number>_<task>/rl/best)."""
    sft: SFTConfig = field(default_factory=lambda: SFTConfig(steps=300, lr=3e-4))
    """Stage 2 of each task."""
    anchor: AnchorConfig = field(default_factory=AnchorConfig)
    """Holding on to the demonstrations, all of them, in stage 1 already."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """How episodes are collected."""
    seed: int = 0
    """Seed of everything that is random: weights, starts, noise and minibatches."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""

    def run(self) -> int:
        """Both stages for every task, and save."""
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
                f"{self.ire.method!r}, which says what learns; leave it out"
            )
        return replace(self.learner, train_vlm=wanted)

    def _joined(self, arena: Arena) -> Arena:
        """The tasks of the demonstrations and those practised, which the policy is good for now."""
        if self.world.instruction is not None or not (self.policy / "world.json").exists():
            return arena
        tasks = read_world(self.policy).resolve().horizons | arena.horizons
        return arena.replaced(tasks=tuple(tasks), max_steps=tuple(tasks.values()))
