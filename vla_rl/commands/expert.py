"""``vla-rl expert``."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

import torch
import tyro

from vla_rl.config import to_json
from vla_rl.demos.demo_set import DemoSet
from vla_rl.evaluate import EvalConfig, protocol_id, shorter_horizons, with_protocol
from vla_rl.experts.state_expert import StateExpert, play_expert
from vla_rl.experts.training import ExpertTraining, PPOConfig, SACConfig
from vla_rl.results.evaluation import EvalResult, TaskResult
from vla_rl.rollout.slots import record
from vla_rl.sim import Outcome
from vla_rl.stages.interruption import Interruption
from vla_rl.stages.progress import Progress, Tally
from vla_rl.stages.record import new_demos
from vla_rl.stages.run import RunFolder, new_run
from vla_rl.stages.tables import show_demos, show_evaluation
from vla_rl.storage import checkpoint
from vla_rl.types import SEED_RANGES, Demonstration, EpisodeSpec, Task, seed_for
from vla_rl.world import Arena, World


@dataclass(frozen=True)
class Command:
    """Train experts on the simulator's true state, and record demonstrations with them.

    For suites without scripted experts.
    """

    out: Path = Path("runs/expert")
    """Run folder: experts in OUT/expert, their evaluation in OUT/eval.json, demonstrations in
    OUT/demos."""
    resume: bool = False
    """Resume from the newest valid checkpoints in OUT."""
    world: World = field(
        default_factory=lambda: World(tasks=("drawer-close-v3",), max_steps=(150,))
    )
    """Suite, tasks, cameras and horizon."""
    algorithm: Annotated[Literal["sac", "ppo"], tyro.conf.arg(aliases=("--algo",))] = "ppo"
    """Algorithm of Stable-Baselines3: `ppo`, or `sac` for slow simulators, which needs fewer steps
    but more computation for each."""
    steps: int = 200_000
    """Environment steps of training per task; at least 1."""
    episodes: int = 10
    """Number of solved demonstrations per task; 0 for none."""
    eval: EvalConfig = field(default_factory=lambda: EvalConfig(episodes_per_task=50))
    """Settings of the evaluation of the experts."""
    sac: SACConfig = field(default_factory=SACConfig)
    """Settings of `sac`."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """Settings of `ppo`."""
    checkpoint_every: int = 50_000
    """Environment steps between checkpoints."""
    seed: int = 0
    """Seed of weights, starts and noise."""

    def __post_init__(self) -> None:
        for name in ("steps", "checkpoint_every"):
            if vars(self)[name] < 1:
                raise ValueError(f"{name} must be at least 1, got {vars(self)[name]}")
        if self.episodes < 0:
            raise ValueError(f"episodes must be 0 (record none) or more, got {self.episodes}")

    def run(self) -> int:
        """Train, evaluate and record."""
        arena = self.world.resolve()
        with_protocol(arena, self.eval)
        if self.episodes:
            arena.renderer()  # fail now if the suite cannot render for recording
        run = new_run(self.out, self, self.resume)
        torch.set_num_threads(1)  # more threads slow such small networks down
        experts = {task: self._trained(run, arena, task) for task in arena.tasks}
        result = self._evaluated(arena, experts)
        (self.out / "eval.json").write_text(result.to_json())
        show_evaluation(result)
        if self.episodes:
            _require_success(result)
            show_demos(self._recorded(arena, experts))
        return 0

    def _trained(self, run: RunFolder, arena: Arena, task: Task) -> StateExpert:
        """Train and save the expert of a task."""
        config = self.sac if self.algorithm == "sac" else self.ppo
        training = ExpertTraining(lambda: arena.simulator(task), config, self.seed)
        checkpoints = self.out / "checkpoints" / _name(task)
        if self.resume and checkpoints.exists():
            training.load_state_dict(checkpoint.load(checkpoints).state())
            run.metrics.rewind(training.steps, _prefix(task))
            print(f"{task.id}: resuming after {training.steps} steps")
        with Interruption() as interruption:
            self._train(run, task, training, checkpoints, interruption)
        training.close()
        if interruption.wanted():
            raise KeyboardInterrupt
        expert = training.expert()
        expert.save(self.out / "expert" / f"{_name(task)}.safetensors")
        return expert

    def _train(
        self,
        run: RunFolder,
        task: Task,
        training: ExpertTraining,
        checkpoints: Path,
        interruption: Interruption,
    ) -> None:
        """Train to the set steps or an interruption, with checkpoints and a progress line."""
        saved = training.steps
        with Progress(f"train {task.id}", self.steps, training.steps) as progress:
            while training.steps < self.steps and not interruption.wanted():
                began, before = time.perf_counter(), training.steps
                training.learn(min(_STEPS_BETWEEN_NEWS, self.steps - before))
                rate = (training.steps - before) / (time.perf_counter() - began)
                metrics = {"steps_per_second": rate}
                text = ""
                if training.success is not None:
                    metrics["success"] = training.success
                    text = f"success {training.success:.2f}"
                named = {_prefix(task) + name: value for name, value in metrics.items()}
                run.metrics.write(training.steps, named)
                progress.advance(text, min(training.steps, self.steps) - before)
                if training.steps - saved >= self.checkpoint_every:
                    training.save(checkpoints)
                    saved = training.steps
        if training.steps > saved:
            training.save(checkpoints)

    def _evaluated(self, arena: Arena, experts: Mapping[Task, StateExpert]) -> EvalResult:
        """Evaluate on held-out starts, with format and protocol of `vla-rl eval`."""
        played, protocol = with_protocol(arena, self.eval)
        seeds = tuple(seed_for(protocol.starts, i) for i in range(protocol.episodes_per_task))
        results: dict[str, TaskResult] = {}
        with Progress("evaluate", len(seeds) * len(experts)) as progress:
            tally = Tally(progress)
            for task, expert in zip(played.tasks, experts.values(), strict=True):
                env = played.simulator(task)
                success, steps, completed = [], [], []
                for seed in seeds:
                    end, count = play_expert(env, expert, seed)
                    done = _subgoals_done(task, end)
                    success.append(end.success)
                    steps.append(count)
                    completed.append(done)
                    parts = len(task.subgoals)
                    tally(task.id, len(done) / parts if parts else float(end.success))
                env.close()
                results[task.id] = TaskResult(
                    seeds, tuple(success), tuple(steps), task.subgoals, tuple(completed)
                )
        return EvalResult(
            protocol_id=protocol_id(played, protocol),
            suite=played.world.suite,
            horizon=protocol.max_steps,
            settings=to_json(played.settings),
            renderer="none",
            tasks=results,
            policy=str(self.out / "expert"),
            also_within=shorter_horizons(arena, self.eval),
        )

    def _recorded(self, arena: Arena, experts: Mapping[Task, StateExpert]) -> DemoSet:
        """Record solved episodes of every expert, in addition to existing ones.

        Raises:
            RuntimeError: If an expert solves hardly any of the starts.
        """
        demos = new_demos(self.out / "demos", arena, append=self.resume)
        known = {(spec.task.id, spec.seed) for spec in demos.specs()}
        there = Counter(task_id for task_id, _ in known)
        missing = {task: max(0, self.episodes - there[task.id]) for task in experts}
        with Progress("record", sum(missing.values())) as progress:
            for task, expert in experts.items():
                env = arena.simulator(task)
                seeds = (s for s in SEED_RANGES["demo"] if (task.id, s) not in known)
                tries = islice(seeds, _TRIES * missing[task])
                solved: list[Demonstration] = []
                while len(solved) < missing[task]:
                    seed = next(tries, None)
                    if seed is None:
                        raise RuntimeError(
                            f"the expert of {task.id} solved fewer than 1 in {_TRIES} starts while "
                            "recording; train it longer (--resume --steps)"
                        )
                    demo = record(env, expert, EpisodeSpec(task, seed), f"expert:{self.algorithm}")
                    if demo.success:
                        solved.append(demo)
                        progress.advance()
                demos.append(solved)
                env.close()
        return demos


_STEPS_BETWEEN_NEWS = 2_000
_TRIES = 50
"""Average number of starts per solved demonstration at which recording gives up."""


def _name(task: Task) -> str:
    """The task's name in characters that any file system allows."""
    return quote(task.id, safe="")


def _subgoals_done(task: Task, end: Outcome) -> tuple[str, ...]:
    return tuple(name for i, name in enumerate(task.subgoals) if end.completed >> i & 1)


def _prefix(task: Task) -> str:
    return f"expert/{task.id}/"


def _require_success(result: EvalResult) -> None:
    unsolved = [task_id for task_id, task in result.tasks.items() if not task.successes]
    if unsolved:
        raise RuntimeError(
            f"nothing was recorded: the expert solves none of the held-out starts of "
            f"{', '.join(unsolved)}. Train longer (--resume --steps), give it more steps (a higher "
            "--max-steps), try the other --algorithm, or leave the task out (--resume --tasks)"
        )
