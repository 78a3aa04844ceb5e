"""Supervised fine-tuning on demonstrations."""

from __future__ import annotations

from vla_rl.demos.demo_set import DemoSet
from vla_rl.learning.held_out import Split, held_out, split
from vla_rl.policy import PolicyBase
from vla_rl.sft import Cloning, SFTConfig
from vla_rl.stages.interruption import Interruption
from vla_rl.stages.progress import Progress
from vla_rl.stages.run import RunFolder, restore_state, save_state
from vla_rl.world import Arena


def check_demos(demos: DemoSet, arena: Arena, config: SFTConfig, seed: int) -> None:
    """Require demonstrations of the arena's tasks, and enough of them if some are held out.

    Raises:
        ValueError: If there are none or too few.
    """
    wanted = {task.id for task in arena.tasks}
    specs = [spec for spec in demos.specs() if spec.task.id in wanted]
    if not specs:
        there = sorted({spec.task.id for spec in demos.specs()})
        raise ValueError(
            f"{demos.path} holds no demonstration of {', '.join(sorted(wanted))}; it has: "
            f"{', '.join(there) or 'none'}"
        )
    held_out(specs, config.validation_share, seed)


def sft_stage(
    run: RunFolder,
    policy: PolicyBase,
    demos: DemoSet,
    arena: Arena,
    config: SFTConfig,
    seed: int,
    resume: bool,
) -> None:
    """Clone the demonstrations of the arena's tasks into a policy with fresh weights."""
    recorded = demos.load([task.id for task in arena.tasks])
    data = split(recorded, policy.chunk, config.validation_share, seed)
    policy.fit_statistics(data.learned.obs.state)
    supervised_stage(run, policy, data, config, seed, resume, "clone")


def supervised_stage(
    run: RunFolder,
    policy: PolicyBase,
    data: Split,
    config: SFTConfig,
    seed: int,
    resume: bool,
    title: str,
) -> None:
    """Supervised fine-tuning with checkpoints; Ctrl-C or SIGTERM saves one before it ends.

    Where demonstrations are held out, the policy ends with the weights of the lowest held-out loss.

    Args:
        run: Run folder of checkpoints and metrics.
        policy: The policy to train; its proprioception statistics do not change.
        data: Demonstrations to imitate, and held-out ones.
        config: Settings of the training.
        seed: Seed of order, augmentation and a head's noise.
        resume: Whether to continue from the newest valid checkpoint.
        title: Title of the progress line.
    """
    cloning = Cloning(policy, data.learned, config, seed, data.held_out)
    root = run.folder / "checkpoints"
    if resume and (state := restore_state(root, cloning.learner)):
        cloning.load_state_dict(state["cloning"])
        run.metrics.rewind(cloning.step, prefix="sft/")

    def save() -> None:
        save_state(root, cloning.step, cloning.learner, {"cloning": cloning.state_dict()})

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
            f"{title}: kept the weights of step {best.step} of {cloning.step}, whose held-out loss "
            f"is the lowest, {best.loss:.4f}"
        )
