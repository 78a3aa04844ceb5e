"""iRe-VLA: for each task, reinforcement learning of the head, then imitation with all parameters.

"Improving Vision-Language-Action Model with Online Reinforcement Learning" (arXiv 2501.16664).
A policy is cloned from demonstrations D_e (stage 0, ``vla-rl sft``). Then, for every task:

1. stage 1: online RL with the backbone frozen; only the action head and a fresh critic learn, from
   features that are computed once per observation. Solved episodes are appended to D_RL on disk;
2. stage 2: supervised learning of backbone (its adapters, if it has any) and head on D_e and the
   D_RL of all tasks so far, so that old skills are kept and the backbone learns new ones.

Choices that the paper leaves open: any algorithm in stage 1 (the paper: PPO); only a few random
solved episodes of an iteration are kept, because most are alike; batches of stage 2 draw every task
equally often; the statistics that normalise proprioception stay those of stage 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vla_rl import seeding
from vla_rl.demos.demo_set import DemoSet
from vla_rl.learning.held_out import split
from vla_rl.plugins import unknown
from vla_rl.policy import PolicyBase, load_policy
from vla_rl.results.metrics import FILE, MetricsWriter, read_metrics
from vla_rl.rollout.collector import Collector
from vla_rl.rollout.play import PlaySettings
from vla_rl.sft import SFTConfig
from vla_rl.stages.record import new_demos
from vla_rl.stages.run import RunFolder, save_policy
from vla_rl.stages.sft import supervised_stage
from vla_rl.stages.successes import Successes
from vla_rl.stages.tables import show_kept_policies
from vla_rl.stages.train import Recipe, train_stage
from vla_rl.types import Demonstration, Task, Trajectory
from vla_rl.world import Arena


@dataclass(frozen=True)
class Method:
    """What is trained in each stage: the only difference between the method and its baselines.

    Attributes:
        vlm_in_rl: Whether the backbone is trained in stage 1.
        vlm_in_supervised: Whether the backbone is trained in stage 2.
        imitates_own: Whether stage 2 also imitates solved episodes, D_RL.
    """

    vlm_in_rl: bool
    vlm_in_supervised: bool
    imitates_own: bool


METHODS = {
    "ire_vla": Method(vlm_in_rl=False, vlm_in_supervised=True, imitates_own=True),
    "freeze": Method(vlm_in_rl=False, vlm_in_supervised=False, imitates_own=True),
    "replay": Method(vlm_in_rl=True, vlm_in_supervised=True, imitates_own=False),
}


@dataclass(frozen=True)
class IReVLAConfig:
    """Settings of the two stages."""

    method: str = "ire_vla"
    """Method: `ire_vla`, or one of the paper's baselines: `freeze` (the backbone stays frozen in
    stage 2, too) or `replay` (PPO-Replay: RL of the whole policy, then demonstrations only)."""
    own_actions: Literal["executed", "greedy"] = "executed"
    """Solved episodes that stage 2 imitates: `executed`, those of stage 1 with their exploration
    noise (the paper), or `greedy`, episodes without noise on other training starts, played at the
    end of stage 1."""
    successes_per_iteration: int = 4
    """Most executed episodes to keep per iteration, drawn at random; 0 for all, which takes much
    disk space and time, because every step of them is rendered again."""
    greedy_episodes: int = 64
    """Number of greedy episodes to play, of which the solved ones are kept; at least 1."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(unknown("method", self.method, METHODS))
        if self.successes_per_iteration < 0:
            raise ValueError(
                f"successes_per_iteration must not be negative, got {self.successes_per_iteration}"
            )
        if self.greedy_episodes < 1:
            raise ValueError(f"greedy_episodes must be at least 1, got {self.greedy_episodes}")


@dataclass(frozen=True)
class Procedure:
    """The two stages for a sequence of tasks.

    Each task has a folder ``OUT/<number>_<task>`` with ``rl`` (stage 1), ``successes`` (its D_RL),
    ``sft`` (stage 2) and finally ``policy``; what is complete is not done again.

    Attributes:
        folder: The run folder, OUT.
        collector: Plays episodes of the suite.
        arena: The tasks, in the order of training.
        demos: Demonstrations D_e of all tasks.
        recipe: Makes the recipe of stage 1 from an arena (of one task) and a seed.
        config: Method and choice of solved episodes.
        sft: Settings of stage 2.
        seed: Seed of everything.
    """

    folder: Path
    collector: Collector
    arena: Arena
    demos: DemoSet
    recipe: Callable[[Arena, int], Recipe]
    config: IReVLAConfig
    sft: SFTConfig
    seed: int

    @property
    def method(self) -> Method:
        """What is trained in each stage."""
        return METHODS[self.config.method]

    def run(self, policy: PolicyBase) -> PolicyBase:
        """Run both stages for one task after another, in place; finished stages are loaded.

        Every task begins with the exploration noise of the cloned policy.
        """
        deviations = [parameter.detach().clone() for parameter in policy.deviations()]
        for number, task in enumerate(self.arena.tasks, start=1):
            folder = self._folder(number, task)
            after_rl, after_both = folder / "rl" / "policy", folder / "policy"
            for stage, done in ((self._reinforce, after_rl), (self._consolidate, after_both)):
                if done.exists():
                    _take_over(policy, done)
                else:
                    if stage == self._reinforce:
                        renew(policy, deviations, self._seed(number))
                    stage(policy, number, task)
                    save_policy(policy, self._alone(task), done)
        return policy

    def _reinforce(self, policy: PolicyBase, number: int, task: Task) -> None:
        """Stage 1."""
        folder, arena, seed = self._folder(number, task), self._alone(task), self._seed(number)
        out = folder / "rl"
        own = new_demos(folder / "successes", arena, append=True)
        if not (out / "checkpoints").exists():  # otherwise the checkpoint says how many are kept
            own.truncate(0)
        recipe = self.recipe(arena, seed)
        keeper = Successes(own, self.collector, self.config.successes_per_iteration, seed)
        executed = self.method.imitates_own and self.config.own_actions == "executed"
        print(f"task {number}, {task.id}: stage 1, reinforcement learning")
        with MetricsWriter(out) as metrics:
            train_stage(
                *(
                    RunFolder(out, metrics),
                    self.collector,
                    policy,
                    arena,
                    recipe,
                    self.demos,
                ),
                resume=True,
                keeper=keeper if executed else None,
            )
        show_kept_policies(out)
        if self.method.imitates_own and not executed:
            own.truncate(0)
            specs = recipe.curriculum.sample(self.config.greedy_episodes)
            played = self.collector.collect(
                policy, specs, [0] * len(specs), PlaySettings(greedy=True)
            )
            keeper.add([t for t in played.trajectories if t.success])
            _log_greedy(out, played.trajectories)

    def _consolidate(self, policy: PolicyBase, number: int, task: Task) -> None:
        """Stage 2."""
        before = self.arena.tasks[:number] if self.method.imitates_own else []
        own: list[Demonstration] = []
        for earlier, of_task in enumerate(before, start=1):
            found = DemoSet.open(self._folder(earlier, of_task) / "successes").load()
            print(f"task {number}, {task.id}: {len(found)} own episodes of {of_task.id}")
            own += found
        seed = self._seed(number)
        # Of its own there may be too few to hold any out.
        data = split(self.demos.load(), policy.chunk, self.sft.validation_share, seed, also=own)
        config = replace(self.sft, train_vlm=self.method.vlm_in_supervised)
        out = self._folder(number, task) / "sft"
        print(f"task {number}, {task.id}: stage 2, supervised learning")
        with MetricsWriter(out) as metrics:
            run = RunFolder(out, metrics)
            supervised_stage(run, policy, data, config, seed, resume=True, title="imitate")

    def _folder(self, number: int, task: Task) -> Path:
        return self.folder / f"{number}_{task.id}"

    def _alone(self, task: Task) -> Arena:
        return self.arena.replaced(tasks=(task.id,), max_steps=(task.max_steps,))

    def _seed(self, number: int) -> int:
        """Seed of a task, different for every task."""
        return int(seeding.sequence(self.seed, "task", number).generate_state(1)[0])


def _log_greedy(folder: Path, played: Sequence[Trajectory]) -> None:
    """Log the greedy episodes in a row after the last iteration of stage 1.

    A run that is resumed before the end of stage 1 drops that row and plays them again.
    """
    last = read_metrics(folder / FILE)[-1]
    steps = sum(t.steps for t in played)
    with MetricsWriter(folder) as metrics:
        metrics.write(
            last["step"] + 1,
            {
                "greedy/episodes": len(played),
                "greedy/success": float(np.mean([t.success for t in played])),
                "greedy/env_steps": steps,
                "train/env_steps": last["train/env_steps"] + steps,
                "train/episodes": last["train/episodes"] + len(played),
            },
        )


def renew(policy: PolicyBase, deviations: Sequence[Tensor], seed: int) -> None:
    """Reset the exploration noise and the critic of a policy for a new task.

    A noise network, as in a Laplace head, gets its first weights back; its output also depends on
    the backbone, which may have changed since.

    Args:
        policy: Changed in place.
        deviations: Initial values of ``policy.deviations()``.
        seed: Seed of the fresh critic's weights, which depend on nothing else.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = type(policy).blank(policy.config, policy.spaces)
    with torch.no_grad():
        for old, new in zip(policy.groups()["critic"], fresh.groups()["critic"], strict=True):
            old.copy_(new)
        for old, first in zip(policy.deviations(), deviations, strict=True):
            old.copy_(first)


def _take_over(policy: PolicyBase, folder: Path) -> None:
    saved = load_policy(folder, policy.spaces)
    policy.load_state_dict(saved.state_dict())
    policy.text_memory.update(saved.text_memory)
