"""The stages of a run, joined by name: record, clone, evaluate, improve.

Commands are made of these; each reports progress while it works and leaves its results in the run
folder. This is the only module that knows every kind of plug-in.
"""

from __future__ import annotations

import copy
import inspect
import json
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from rich.console import Console

from vla_rl import plugins
from vla_rl.config import World, to_json, write_world
from vla_rl.demos.chunks import ChunkDataset
from vla_rl.demos.demo_set import DemoSet
from vla_rl.episode_end import EpisodeEnd, Pays, Reward, end_of
from vla_rl.evaluate import EvalConfig, evaluate, resolve
from vla_rl.learning.distributed import ALONE, Ranks
from vla_rl.learning.held_out import Split, held_out, split
from vla_rl.learning.learner import Learner, LearnerConfig
from vla_rl.learning.running_moments import RunningMoments
from vla_rl.policy import PolicyBase, load_policy
from vla_rl.results.evaluation import EvalResult
from vla_rl.results.metrics import MetricsWriter, NoMetrics, Progress, outcome, outcomes_by_task
from vla_rl.results.run_folders import BEST, RECORD
from vla_rl.rollout.collector import Collector, RolloutConfig, episode_keys
from vla_rl.rollout.crew import cores
from vla_rl.rollout.play import PlaySettings
from vla_rl.sft import AnchorConfig, Cloning, DemoAnchor, SFTConfig
from vla_rl.stages import resuming
from vla_rl.stages.interruption import Interruption
from vla_rl.stages.validation import Validation
from vla_rl.storage import checkpoint, hub
from vla_rl.train import Algorithm, Keeper, Loop, TrainConfig, check_groups, run
from vla_rl.types import Curriculum, EpisodeSpec, Spaces, Trajectory, seed_for

MET = 4
"""Episodes that a policy with fresh weights plays before training."""
SPACE_FOR_A_RUN = 200 * 2**20  # checkpoints, metrics, video; checked before any long work


@dataclass(frozen=True)
class Run:
    """A run folder and its metrics."""

    folder: Path
    metrics: MetricsWriter


@dataclass(frozen=True)
class Recipe:
    """Everything that reinforcement learning needs besides a policy and a world."""

    algorithm: Algorithm
    anchor: AnchorConfig
    curriculum: Curriculum
    rewards: Sequence[Reward]
    learner: LearnerConfig
    train: TrainConfig
    seed: int


# ------------------------------------------------------------------------------------ beginnings


def pick_device(name: str) -> str:
    """The torch device for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ValueError: For another name, or for a GPU that is not there.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"unknown device {name!r}; allowed: auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but torch sees no GPU; see `vla-rl doctor`")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def checked_spaces(world: World) -> Spaces:
    """The world's spaces; errors in suite, tasks, horizon, cameras or sizes surface here."""
    world.resolved()
    spaces: Spaces = plugins.load("envs", world.suite).spaces(world.settings())
    return spaces


def curriculum_named(name: str, world: World, seed: int) -> Curriculum:
    """A curriculum over the world's tasks."""
    made: Curriculum = plugins.load("curricula", name).Curriculum(world.resolved(), seed)
    return made


def rewards_named(names: Sequence[str]) -> list[Reward]:
    """Reward models by name.

    Raises:
        ValueError: If one is unknown, or says that it pays for something unheard of.
    """
    return [_reward_named(name) for name in names]


def _reward_named(name: str) -> Reward:
    module = plugins.load("rewards", name)
    pays = vars(module).get("PAYS", "outcome")
    if pays not in get_args(Pays):
        raise ValueError(plugins.unknown(f"PAYS of reward {name!r}:", pays, get_args(Pays)))
    if len(inspect.signature(module.reward).parameters) != 2:
        raise ValueError(
            f"reward {name!r} must define reward(trajectory, end), got "
            f"reward{inspect.signature(module.reward)}"
        )
    return Reward(module.reward, pays)


def end_of_episodes(recipe: Recipe, world: World) -> EpisodeEnd:
    """How episodes end in a run.

    Raises:
        ValueError: If rewards, algorithm and time limit do not fit together.
    """
    suite = plugins.load("envs", world.suite)
    ends: Callable[[Any], bool] = vars(suite).get("success_ends", lambda settings: True)
    return end_of(
        recipe.rewards,
        success_ends=ends(world.settings()),
        uses_critic=recipe.algorithm.uses_critic,
        credits_decisions=recipe.algorithm.credits_decisions,
        gamma=recipe.algorithm.discount,
        time_limit=recipe.train.time_limit,
        solved_step=getattr(world.settings(), "solved_step", None),
    )


def check_recipe(recipe: Recipe, policy: PolicyBase, world: World) -> None:
    """Refuse what cannot work together, before any long work.

    Raises:
        ValueError: With what does not fit and what to change.
    """
    end_of_episodes(recipe, world)
    recipe.algorithm.density_for(policy)
    check_groups(recipe.algorithm, recipe.train)
    if recipe.learner.lr_schedule != "constant" and recipe.train.minutes:
        raise ValueError(
            f"learner lr_schedule {recipe.learner.lr_schedule!r} needs a budget that repeats: give "
            f"--train.iterations or --train.env-steps instead of --train.minutes "
            f"{recipe.train.minutes}"
        )


def new_folder(folder: Path, command: Any, resume: bool) -> None:
    """Make a run folder and write the command into ``config.json``.

    Raises:
        FileExistsError: If the folder holds a run and ``resume`` is off.
        OSError: If there is too little disk space.
        ValueError: If ``resume`` is on and something differs that may not.
    """
    if not resume and (folder / "config.json").exists():
        raise FileExistsError(
            f"{folder} already holds a run; choose another --out, delete it, or add --resume"
        )
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.free_space_check(folder, SPACE_FOR_A_RUN)
    config = resuming.configuration(folder, command, resume)
    checkpoint.write_json(folder / "config.json", config)


def new_run(folder: Path, command: Any, resume: bool, ranks: Ranks = ALONE) -> Run:
    """A run in a :func:`new_folder`; of several ranks only the main one makes it."""
    ranks.only_main(lambda: new_folder(folder, command, resume))
    return Run(folder, MetricsWriter(folder) if ranks.is_main else NoMetrics())


def new_policy(network: str, settings: Any, spaces: Spaces, seed: int, device: str) -> PolicyBase:
    """A policy with fresh weights that depend on the seed only.

    Raises:
        ValueError: If a setting is bad, or does nothing in this policy.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy: PolicyBase = plugins.load("policies", network).Policy(settings, spaces)
    policy.check_use()
    return policy.to(pick_device(device))


class Met(NamedTuple):
    """What a policy with fresh weights met before training.

    Attributes:
        states: Statistics of the proprioception.
        env_steps: Environment steps that it took.
    """

    states: RunningMoments
    env_steps: int


def meet_states(collector: Collector, policy: PolicyBase, world: World, seed: int) -> Met:
    """Let a policy with fresh weights play a little, and normalise proprioception by what it met.

    A policy that was cloned has this from its demonstrations.
    """
    tasks = world.resolved()
    policy.remember([task.instruction for task in tasks])
    count = max(1, MET // len(tasks))
    specs = world.specs("train", count)
    keys = episode_keys(seed, "first states", count=len(specs))
    episodes = collector.collect(policy, specs, keys, PlaySettings()).trajectories
    met = RunningMoments()
    met.add(np.concatenate([t.obs.state for t in episodes]))
    policy.set_statistics(met.mean, met.std)
    return Met(met, sum(t.steps for t in episodes))


def open_collector(
    world: World, config: RolloutConfig, policy: PolicyBase | None, ranks: Ranks = ALONE
) -> Collector:
    """Workers for a world; a suite that cannot render here says so before they start.

    Ranks on one machine share its cores, unless the number of workers (of each) is given.
    """
    renderer(world)
    if ranks.local > 1 and not config.workers:
        config = replace(config, workers=max(1, cores() // ranks.local))
    device = "cpu" if policy is None else policy.state_mean.device.type
    return Collector(world.suite, world.settings(), config, device)


def renderer(world: World) -> str:
    """What draws the world's images; makes it ready for this process and its children.

    Raises:
        RuntimeError: If nothing can, with what to install.
    """
    prepare: Callable[[Any], str] = vars(plugins.load("envs", world.suite)).get(
        "prepare", lambda settings: "none"
    )
    return prepare(world.settings())


def save_policy(
    policy: PolicyBase, world: World, folder: Path, validation: dict[str, Any] | None = None
) -> None:
    """Write a policy and where it acts, and by which evaluation it was chosen if it was.

    An older one in the folder is replaced.
    """
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    policy.save_pretrained(fresh)
    write_world(world, fresh)
    card = policy.generate_model_card(world=json.loads((fresh / "world.json").read_text()))
    card.save(fresh / hub.CARD)  # now that it is known where the policy acts
    if validation is not None:
        checkpoint.write_json(fresh / RECORD, validation)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


# ----------------------------------------------------------------------------------------- record


def episodes_by_task(world: World, episodes: Sequence[int]) -> list[int]:
    """Demonstrations of each task of the world.

    Raises:
        ValueError: If there are neither one number nor one for each task, or one is below 1.
    """
    tasks = world.resolved()
    if len(episodes) not in (1, len(tasks)):
        raise ValueError(
            f"episodes {list(episodes)}: give one number, or one for each of {len(tasks)} tasks"
        )
    if min(episodes) < 1:
        raise ValueError(f"episodes {list(episodes)}: every number must be at least 1")
    return list(episodes) * len(tasks) if len(episodes) == 1 else list(episodes)


def new_demos(folder: Path, world: World, append: bool) -> DemoSet:
    """An empty set of demonstrations, or with ``append`` also one that is there and fits.

    Raises:
        FileExistsError: If it is there and ``append`` is off.
        ValueError: As :func:`fitting_demos`.
    """
    if folder.exists():
        if append:
            return fitting_demos(folder, world)
        raise FileExistsError(f"{folder} already exists; add --append, or choose another --out")
    spaces = checked_spaces(world)
    demos = DemoSet.create(folder, world.suite, to_json(world.settings()), spaces)
    write_world(world, folder)
    return demos


def fitting_demos(folder: Path, world: World) -> DemoSet:
    """A set of demonstrations that fits the world.

    Raises:
        ValueError: If there is none, or it was recorded in another suite, or with other cameras or
            actions.
    """
    demos = DemoSet.open(folder)
    demos.check(checked_spaces(world), world.suite)
    return demos


def required_demos(demos: DemoSet | None, anchor: AnchorConfig) -> DemoSet:
    """The demonstrations that an anchor holds on to.

    Raises:
        ValueError: If there are none.
    """
    if demos is None:
        raise ValueError(f"anchor.coef {anchor.coef} needs --demos to hold on to")
    if not len(demos):
        raise ValueError(
            f"anchor.coef {anchor.coef} needs demonstrations to hold on to, and {demos.path} holds "
            "none: record some, or set --anchor.coef 0"
        )
    return demos


def check_demos(demos: DemoSet, world: World, config: SFTConfig, seed: int) -> None:
    """Require demonstrations of the world's tasks, enough to hold some out if that is wanted.

    Raises:
        ValueError: If there are none, or too few.
    """
    wanted = {task.id for task in world.resolved()}
    specs = [spec for spec in demos.specs() if spec.task.id in wanted]
    if not specs:
        there = sorted({spec.task.id for spec in demos.specs()})
        raise ValueError(
            f"{demos.path} holds no demonstration of {', '.join(sorted(wanted))}; it has: "
            f"{', '.join(there) or 'none at all'}"
        )
    held_out(specs, config.validation_share, seed)


def record_stage(
    collector: Collector, demos: DemoSet, world: World, counts: Sequence[int], first: int
) -> None:
    """Record starts from the ``first``-th on that are new, and append the solved episodes."""
    suite = plugins.load("envs", world.suite)
    if "expert" not in vars(suite):
        raise ValueError(f"suite {world.suite} has no scripted expert")
    known = {(spec.task.id, spec.seed) for spec in demos.specs()}
    specs = []
    for task, count in zip(world.resolved(), counts, strict=True):
        fresh = (i for i in range(first, 10**5) if (task.id, seed_for("demo", i)) not in known)
        specs += [EpisodeSpec(task, seed_for("demo", next(fresh))) for _ in range(count)]
    with Progress("record", len(specs)) as progress:
        found = collector.record(specs, lambda _, success: progress.advance())
    solved = [d for d in found if d.success]
    if not solved:
        raise ValueError(
            f"the experts solved none of {len(specs)} starts within {world.max_steps} steps; "
            "raise --max-steps"
        )
    if len(solved) < len(found):
        print(f"the experts solved {len(solved)} of {len(found)} starts; only those are kept")
    demos.append(solved)


# ------------------------------------------------------------------------------------------ clone


def clone_stage(
    run: Run,
    policy: PolicyBase,
    demos: DemoSet,
    world: World,
    config: SFTConfig,
    seed: int,
    resume: bool,
) -> None:
    """Clone the demonstrations of the world's tasks into a policy with fresh weights."""
    recorded = demos.load([task.id for task in world.resolved()])
    data = split(recorded, policy.chunk, config.validation_share, seed)
    policy.fit_statistics(data.learned.obs.state)
    supervised_stage(run, policy, data, config, seed, resume, "clone")


def supervised_stage(
    run: Run,
    policy: PolicyBase,
    data: Split,
    config: SFTConfig,
    seed: int,
    resume: bool,
    title: str,
) -> None:
    """Supervised fine-tuning with checkpoints; Ctrl-C or SIGTERM saves one before it ends.

    Where demonstrations are held out, the policy has the best weights by their loss in the end.

    Args:
        run: Where checkpoints and metrics go.
        policy: What is trained; its proprioception statistics stay as they are.
        data: What to imitate, and what is held out.
        config: How.
        seed: Of order, augmentation and a head's noise.
        resume: Whether to go on from the newest valid checkpoint.
        title: Of the progress line.
    """
    cloning = Cloning(policy, data.learned, config, seed, data.held_out)
    root = run.folder / "checkpoints"
    if resume and (state := _restored(root, cloning.learner)):
        cloning.load_state_dict(state["cloning"])
        run.metrics.rewind(cloning.step, prefix="sft/")

    def save() -> None:
        _save(root, cloning.step, cloning.learner, {"cloning": cloning.state_dict()})

    with Progress(title, config.steps, cloning.step) as progress, Interruption() as interruption:

        def on_step(step: int, metrics: dict[str, float]) -> None:
            progress.advance(f"loss {metrics['sft/loss']:.4f}")
            if step % 10 == 0 or "sft/validation_loss" in metrics:
                run.metrics.write(step, metrics)
            if interruption.wanted():
                save()
                raise KeyboardInterrupt
            if step % config.checkpoint_every == 0 and step < config.steps:
                save()

        cloning.run(on_step)
    if cloning.validation is not None and (best := cloning.validation.best) is not None:
        numbers = {"sft/best_step": best.step, "sft/best_validation_loss": best.loss}
        run.metrics.write(cloning.step, numbers)
        print(
            f"{title}: the weights of step {best.step} are kept, of {cloning.step}: their held-out "
            f"loss is the lowest, {best.loss:.4f}"
        )


# --------------------------------------------------------------------------------------- evaluate


class Tally:
    """Running success by task (completed share of a sequence), for the progress line."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._outcomes: dict[str, list[float]] = defaultdict(list)

    def __call__(self, task: str, share: float) -> None:
        """Count one episode."""
        self._outcomes[task].append(share)
        self._progress.advance(self.text)

    @property
    def text(self) -> str:
        """What was done so far by task, or over all if there are many."""
        if len(self._outcomes) > 4:
            every = [s for outcomes in self._outcomes.values() for s in outcomes]
            return f"done {sum(every) / len(every):.2f}"
        return "  ".join(f"{t} {sum(o) / len(o):.2f}" for t, o in sorted(self._outcomes.items()))


def evaluate_stage(
    collector: Collector, policy: PolicyBase, world: World, config: EvalConfig, title: str
) -> tuple[EvalResult, list[Trajectory]]:
    """Evaluate with live progress."""
    resolved, protocol = resolve(world, config)
    count = protocol.episodes_per_task * len(resolved.resolved())
    with Progress(title, count) as progress:
        return evaluate(collector, policy, world, config, Tally(progress), renderer(world))


# ---------------------------------------------------------------------------------------- improve


def improve_stage(
    run_: Run,
    collector: Collector,
    policy: PolicyBase,
    world: World,
    recipe: Recipe,
    demos: DemoSet | None,
    resume: bool,
    ranks: Ranks = ALONE,
    keeper: Keeper | None = None,
    met: Met | None = None,
) -> None:
    """Reinforcement learning with checkpoints; Ctrl-C or SIGTERM saves one before it ends.

    With an anchor in the recipe, ``demos`` are what it holds on to: all of them, also those of
    tasks that are not practised. A ``keeper`` sees every episode that is played for training;
    what a policy with fresh weights ``met`` before counts, and its statistics go on if the recipe
    wants them. Where the recipe asks for evaluations on validation starts, the policy that did best
    is kept in the run's folder ``best``. Of several ranks only the main one writes and talks.

    Raises:
        ValueError: If there is an anchor and nothing to hold on to.
    """
    policy.remember([task.instruction for task in world.resolved()])
    backbone = {"vlm"} if recipe.learner.train_vlm else set()
    trains = backbone.union(recipe.algorithm.trains)
    learner = Learner(policy, recipe.learner, trains, ranks=ranks)
    if recipe.algorithm.uses_reference:
        # Before a checkpoint is loaded, so that a resumed run stays close to the same policy.
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
        end_of_episodes(recipe, world),
        world.resolved(),
        recipe.train,
        recipe.seed,
        met.states if met is not None and recipe.train.running_statistics else None,
        env_steps=0 if met is None else met.env_steps,
        keeper=keeper,
    )
    validation = validation_of(collector, policy, world, recipe.train, ranks)
    if resume:
        load_checkpoint(run_, loop, validation)
    saved, whole = loop.iteration, WholeIteration.of(loop, validation)

    def save() -> None:
        nonlocal saved
        if loop.iteration > saved:
            ranks.only_main(lambda: save_checkpoint(run_, loop, validation))
            saved = loop.iteration

    def keep_best() -> None:
        best = run_.folder / BEST
        ranks.only_main(lambda: save_policy(policy, world, best, validation.best))

    if validation.best and validation.best["iteration"] == loop.iteration:
        keep_best()  # a kill may have come between the checkpoint and this

    with _progress_of(loop) as progress, Interruption(ranks.is_main) as interruption:

        def on_iteration(loop: Loop, metrics: dict[str, float]) -> None:
            nonlocal whole
            whole = WholeIteration.of(loop, validation)  # should the evaluation fail
            is_best = validation.after_iteration(loop, metrics)
            whole = WholeIteration.of(loop, validation)
            kept = {} if keeper is None else keeper.metrics()
            run_.metrics.write(loop.iteration, {**metrics, **kept})
            text = "  ".join(filter(None, [_describe(metrics), validation.text]))
            progress.advance(text, _extent(loop)[0] - progress.done)
            # With a best policy a checkpoint that knows of it, or a run that goes on from an older
            # one would find the policy of a future that it has yet to reach.
            if is_best or loop.iteration % recipe.train.checkpoint_every == 0:
                save()
            if is_best:
                keep_best()

        try:
            run(loop, on_iteration, lambda: interruption.wanted() or validation.gives_up)
        except Exception:
            if ranks.is_main:  # the others may be gone
                print(whole.rescued(run_, loop, saved), file=sys.stderr)
            raise
        save()
        wanted = ranks.anyone(interruption.wanted())
    if wanted:
        raise KeyboardInterrupt
    if validation.gives_up and ranks.is_main:
        print(f"ended early: {validation.without_better} evaluations in a row were no better")


def frozen_copy(policy: PolicyBase) -> PolicyBase:
    """A copy of what is being trained that stays as it is; what is frozen is shared, not copied.

    So the reference of a policy with a frozen or LoRA backbone costs its adapters and heads only.
    """
    shared = {id(p): p for p in policy.parameters() if not p.requires_grad}
    return copy.deepcopy(policy, shared).requires_grad_(False)


def validation_of(
    collector: Collector, policy: PolicyBase, world: World, config: TrainConfig, ranks: Ranks
) -> Validation:
    """What evaluates a policy during training; ranks share the starts, and all know the result."""
    starts = EvalConfig(episodes_per_task=config.eval_episodes, starts="validation")
    drawn_by = renderer(world) if config.eval_every else ""

    def play() -> EvalResult:
        return evaluate(collector, policy, world, starts, renderer=drawn_by, ranks=ranks)[0]

    return Validation(config, play)


@dataclass(frozen=True)
class WholeIteration:
    """The state of a loop between iterations, besides weights and optimizer.

    An error in the middle of an iteration leaves draws of starts behind, and the weights as they
    were unless the update had begun.

    Attributes:
        iteration: Iterations done.
        gradient_steps: The learner's.
        progress: What a checkpoint holds of the loop and of random generators.
    """

    iteration: int
    gradient_steps: int
    progress: dict[str, object]

    @classmethod
    def of(cls, loop: Loop, validation: Validation) -> WholeIteration:
        """That of a loop that has just done an iteration, or none yet."""
        progress: dict[str, object] = {
            "loop": loop.state_dict(),
            "validation": validation.state_dict(),
            "rng": checkpoint.capture_rng(),
        }
        return cls(loop.iteration, loop.learner.steps, copy.deepcopy(progress))

    def rescued(self, run_: Run, loop: Loop, saved: int) -> str:
        """Save it after an error, if that can be done; returns how to go on.

        Args:
            run_: Where the checkpoint goes.
            loop: Its weights and optimizer.
            saved: Iteration of the newest checkpoint, 0 if there is none.
        """
        root = run_.folder / "checkpoints"
        if loop.learner.steps == self.gradient_steps and self.iteration > saved:
            _save(root, self.iteration, loop.learner, self.progress)
            saved = self.iteration
        where = f"goes on after iteration {saved}, saved in {root}" if saved else "starts it again"
        return f"an error ended the run after iteration {self.iteration}; --resume {where}"


def save_checkpoint(run_: Run, loop: Loop, validation: Validation) -> None:
    """Write everything that resuming needs."""
    root = run_.folder / "checkpoints"
    progress: dict[str, object] = {
        "loop": loop.state_dict(),
        "validation": validation.state_dict(),
    }
    _save(root, loop.iteration, loop.learner, progress)


def load_checkpoint(run_: Run, loop: Loop, validation: Validation) -> None:
    """Go back to the newest valid checkpoint; a run without one starts from its beginning."""
    root = run_.folder / "checkpoints"
    state = _restored(root, loop.learner)
    if not state:
        return
    loop.load_state_dict(state["loop"])
    validation.load_state_dict(state["validation"])
    run_.metrics.rewind(loop.iteration, prefix="train/")
    if loop.learner.ranks.is_main:
        print(f"resuming after iteration {loop.iteration} ({root})")


def _save(root: Path, step: int, learner: Learner, progress: dict[str, object]) -> None:
    """Write policy, optimizer and random generators, and how far a stage got."""
    state = {
        "optimizer": learner.optimizer.state_dict(),
        "rng": checkpoint.capture_rng(),
        **progress,
    }
    checkpoint.save(root, step, learner.policy.save_pretrained, state)


def _restored(root: Path, learner: Learner) -> dict[str, Any]:
    """Put back what the newest valid checkpoint holds; nothing, and {}, if there is none yet."""
    if not root.exists():
        return {}
    found = checkpoint.load(root)
    state, policy = found.state(), learner.policy
    saved = load_policy(found.policy, policy.spaces)
    policy.load_state_dict(saved.state_dict())
    policy.text_memory.update(saved.text_memory)
    learner.optimizer.load_state_dict(state["optimizer"])
    checkpoint.restore_rng(state["rng"])
    return state


def _progress_of(loop: Loop) -> Progress:
    # Several ranks in one terminal would write over each other.
    console = None if loop.learner.ranks.is_main else Console(quiet=True)
    done, total = _extent(loop)
    return Progress("improve", total, done, console=console)


def _extent(loop: Loop) -> tuple[int, int]:
    """Done and total: in seconds or environment steps if one of them ends the run."""
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
