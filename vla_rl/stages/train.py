"""Reinforcement learning in a run folder."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console

from vla_rl.algorithms import Algorithm
from vla_rl.curricula import Curriculum
from vla_rl.demos.chunks import ChunkDataset
from vla_rl.demos.demo_set import DemoSet
from vla_rl.demos.keeper import Keeper
from vla_rl.episode_end import EpisodeEnd, end_of
from vla_rl.evaluate import EvalConfig, evaluate
from vla_rl.learning.distributed import ALONE, Ranks
from vla_rl.learning.learner import Learner, LearnerConfig
from vla_rl.policy import PolicyBase
from vla_rl.results.evaluation import EvalResult
from vla_rl.results.metrics import outcome, outcomes_by_task
from vla_rl.results.run_folders import BEST
from vla_rl.rewards import Reward
from vla_rl.rollout.collector import Collector
from vla_rl.sft import AnchorConfig, DemoAnchor
from vla_rl.stages.interruption import Interruption
from vla_rl.stages.loop_state import loop_state, restore_loop
from vla_rl.stages.progress import Progress
from vla_rl.stages.run import RunFolder, restore_state, save_policy, save_state
from vla_rl.stages.setup import WarmUpStatistics
from vla_rl.stages.validation import Validation
from vla_rl.storage.state import capture_rng
from vla_rl.train import Loop, until_done
from vla_rl.train_config import TrainConfig
from vla_rl.world import Arena


@dataclass(frozen=True)
class Recipe:
    """Algorithm, rewards, curriculum and settings of reinforcement learning."""

    algorithm: Algorithm
    anchor: AnchorConfig
    curriculum: Curriculum
    rewards: Mapping[str, Reward]
    learner: LearnerConfig
    train: TrainConfig
    seed: int


def end_of_episodes(recipe: Recipe, arena: Arena) -> EpisodeEnd:
    """Decide how the episodes of a run end.

    Raises:
        ValueError: If rewards, algorithm and time limit do not fit together.
    """
    return end_of(
        {reward.pays for reward in recipe.rewards.values()},
        success_ends=arena.success_ends,
        uses_critic=recipe.algorithm.uses_critic,
        credits_decisions=recipe.algorithm.credits_decisions,
        gamma=recipe.algorithm.discount,
        time_limit=recipe.train.time_limit,
        solved_step=getattr(arena.settings, "solved_step", None),
    )


def check_recipe(recipe: Recipe, policy: PolicyBase, arena: Arena) -> None:
    """Check that recipe, policy and arena fit together, before any long work.

    Raises:
        ValueError: If they do not; says what to change.
    """
    end_of_episodes(recipe, arena)
    recipe.algorithm.density_for(policy)
    recipe.train.check_groups(recipe.algorithm.group_size)
    if recipe.learner.lr_schedule != "constant" and recipe.train.minutes:
        raise ValueError(
            f"learner lr_schedule {recipe.learner.lr_schedule!r} needs a reproducible budget: give "
            f"--train.iterations or --train.env-steps instead of --train.minutes "
            f"{recipe.train.minutes}"
        )


def required_demos(demos: DemoSet | None, anchor: AnchorConfig) -> DemoSet:
    """The demonstrations of an anchor.

    Raises:
        ValueError: If there are none.
    """
    if demos is None:
        raise ValueError(f"anchor.coef {anchor.coef} needs demonstrations: give --demos")
    if not len(demos):
        raise ValueError(
            f"anchor.coef {anchor.coef} needs demonstrations, but {demos.path} holds none: record "
            "some, or set --anchor.coef 0"
        )
    return demos


def train_stage(
    run: RunFolder,
    collector: Collector,
    policy: PolicyBase,
    arena: Arena,
    recipe: Recipe,
    demos: DemoSet | None,
    resume: bool,
    ranks: Ranks = ALONE,
    keeper: Keeper | None = None,
    warm_up: WarmUpStatistics | None = None,
) -> None:
    """Reinforcement learning with checkpoints; Ctrl-C or SIGTERM saves one before it ends.

    An anchor in the recipe imitates all ``demos``, including those of tasks that are not trained.
    A ``keeper`` receives every training episode. The environment steps of ``warm_up`` count as
    training, and its statistics keep being updated if the recipe says so. If the recipe has
    evaluations on validation starts, the best policy is kept in the run's folder ``best``. Of
    several ranks, only the main one writes files and prints.

    Raises:
        ValueError: If there is an anchor without demonstrations.
    """
    policy.remember(arena.instructions)
    backbone = {"vlm"} if recipe.learner.train_vlm else set()
    trains = backbone.union(recipe.algorithm.trains)
    learner = Learner(policy, recipe.learner, trains, ranks=ranks)
    if recipe.algorithm.uses_reference:
        # Before a checkpoint is loaded, so that a resumed run has the same reference.
        learner.reference = frozen_copy(policy)
    if recipe.anchor.coef > 0:
        data = ChunkDataset(required_demos(demos, recipe.anchor).load(), policy.chunk)
        learner.regulariser = DemoAnchor(policy, data, recipe.anchor, recipe.seed, ranks)
    loop = Loop(
        collector,
        learner,
        recipe.algorithm,
        recipe.curriculum,
        recipe.rewards,
        end_of_episodes(recipe, arena),
        arena.tasks,
        recipe.train,
        recipe.seed,
        warm_up.states if warm_up is not None and recipe.train.running_statistics else None,
        env_steps=0 if warm_up is None else warm_up.env_steps,
        keeper=keeper,
    )
    validation = validation_of(collector, policy, arena, recipe.train, ranks)
    if resume:
        load_checkpoint(run, loop, validation)
    saved, whole = loop.iteration, WholeIteration.of(loop, validation)

    def save() -> None:
        nonlocal saved
        if loop.iteration > saved:
            ranks.on_main(lambda: save_checkpoint(run, loop, validation))
            saved = loop.iteration

    def keep_best() -> None:
        best = run.folder / BEST
        ranks.on_main(lambda: save_policy(policy, arena, best, validation.best))

    if validation.best and validation.best["iteration"] == loop.iteration:
        keep_best()  # a kill may have come between the checkpoint and this

    with _progress_of(loop) as progress, Interruption(ranks.is_main) as interruption:

        def on_iteration(loop: Loop, metrics: dict[str, float]) -> None:
            nonlocal whole
            whole = WholeIteration.of(loop, validation)  # should the evaluation fail
            is_best = validation.after_iteration(loop, metrics)
            whole = WholeIteration.of(loop, validation)
            kept = {} if keeper is None else keeper.metrics()
            run.metrics.write(loop.iteration, {**metrics, **kept})
            text = "  ".join(filter(None, [_describe(metrics), validation.text]))
            progress.advance(text, _extent(loop)[0] - progress.done)
            # With a best policy a checkpoint that knows of it, or a run that goes on from an older
            # one would find the policy of a future that it has yet to reach.
            if is_best or loop.iteration % recipe.train.checkpoint_every == 0:
                save()
            if is_best:
                keep_best()

        try:
            until_done(loop, on_iteration, lambda: interruption.wanted() or validation.gives_up)
        except Exception:
            if ranks.is_main:  # the others may be gone
                print(whole.rescued(run, loop, saved), file=sys.stderr)
            raise
        save()
        wanted = ranks.any(interruption.wanted())
    if wanted:
        raise KeyboardInterrupt
    if validation.gives_up and ranks.is_main:
        print(f"stopped early: {validation.without_better} evaluations in a row were no better")


def frozen_copy(policy: PolicyBase) -> PolicyBase:
    """A frozen copy of a policy that shares the parameters that are already frozen.

    So the reference of a policy with a frozen or LoRA backbone only needs memory for its adapters
    and heads.
    """
    shared = {id(p): p for p in policy.parameters() if not p.requires_grad}
    return copy.deepcopy(policy, shared).requires_grad_(False)


def validation_of(
    collector: Collector, policy: PolicyBase, arena: Arena, config: TrainConfig, ranks: Ranks
) -> Validation:
    """Evaluations of a policy during training; ranks share the starts, and all get the result."""
    starts = EvalConfig(episodes_per_task=config.eval_episodes, starts="validation")
    drawn_by = arena.renderer() if config.eval_every else ""

    def play() -> EvalResult:
        return evaluate(collector, policy, arena, starts, renderer=drawn_by, ranks=ranks)[0]

    return Validation(config, play)


@dataclass(frozen=True)
class WholeIteration:
    """The state of a loop after a whole iteration, apart from weights and optimizer.

    After an error within an iteration, starts have been drawn in vain, and the weights are
    unchanged unless the update had begun.

    Attributes:
        iteration: Iterations done.
        gradient_steps: Gradient steps of the learner.
        progress: State of the loop and of random generators, for a checkpoint.
    """

    iteration: int
    gradient_steps: int
    progress: dict[str, object]

    @classmethod
    def of(cls, loop: Loop, validation: Validation) -> WholeIteration:
        """The state of a loop that has just finished an iteration, or not begun."""
        progress: dict[str, object] = {
            "loop": loop_state(loop),
            "validation": validation.state_dict(),
            "rng": capture_rng(),
        }
        return cls(loop.iteration, loop.learner.steps, copy.deepcopy(progress))

    def rescued(self, run: RunFolder, loop: Loop, saved: int) -> str:
        """Save this state after an error, if possible; return a message on how to resume.

        Args:
            run: Run folder of the checkpoint.
            loop: Has the weights and optimizer.
            saved: Iteration of the newest checkpoint; 0 if there is none.
        """
        root = run.folder / "checkpoints"
        if loop.learner.steps == self.gradient_steps and self.iteration > saved:
            save_state(root, self.iteration, loop.learner, self.progress)
            saved = self.iteration
        where = f"continues after iteration {saved}, saved in {root}" if saved else "starts again"
        return f"an error ended the run after iteration {self.iteration}; --resume {where}"


def save_checkpoint(run: RunFolder, loop: Loop, validation: Validation) -> None:
    """Write a checkpoint of the loop."""
    root = run.folder / "checkpoints"
    progress: dict[str, object] = {
        "loop": loop_state(loop),
        "validation": validation.state_dict(),
    }
    save_state(root, loop.iteration, loop.learner, progress)


def load_checkpoint(run: RunFolder, loop: Loop, validation: Validation) -> None:
    """Restore the newest valid checkpoint; without one the run starts from the beginning."""
    root = run.folder / "checkpoints"
    state = restore_state(root, loop.learner)
    if not state:
        return
    restore_loop(loop, state["loop"])
    validation.load_state_dict(state["validation"])
    run.metrics.rewind(loop.iteration, prefix="train/")
    if loop.learner.ranks.is_main:
        print(f"resuming after iteration {loop.iteration} ({root})")


def _progress_of(loop: Loop) -> Progress:
    # Several ranks in one terminal would overwrite each other's lines.
    console = None if loop.learner.ranks.is_main else Console(quiet=True)
    done, total = _extent(loop)
    return Progress("improve", total, done, console=console)


def _extent(loop: Loop) -> tuple[int, int]:
    """Done and total, in seconds or environment steps if one of these limits the run."""
    config = loop.config
    if config.minutes:
        total = round(60 * config.minutes)
        return min(round(loop.seconds), total), total
    if config.env_steps:
        return min(loop.env_steps, config.env_steps), config.env_steps
    return loop.iteration, config.iterations


def _describe(metrics: dict[str, float]) -> str:
    tasks = outcomes_by_task(metrics)
    if len(tasks) <= 4:
        return "  ".join(f"{task} {rate:.2f}" for task, rate in sorted(tasks.items()))
    return f"done {outcome(metrics):.2f}"
