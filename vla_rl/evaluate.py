"""Evaluation: every (task, start) exactly once, greedily, under a named protocol.

A protocol id is a sentence of everything that changes the number: name, starts, horizon, suite
settings (cameras, image size, quality), tasks, an instruction that is not their own, and starts
that are not those of reports. Results of different ids are never compared.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from vla_rl import plugins
from vla_rl.collector import Collector, OnEpisode
from vla_rl.config import World, to_json
from vla_rl.distributed import ALONE, Ranks
from vla_rl.policy import Policy
from vla_rl.rollout import PlaySettings
from vla_rl.statistics import EvalResult, TaskResult
from vla_rl.types import EpisodeSpec, EvalProtocol, Trajectory


@dataclass(frozen=True)
class EvalConfig:
    """How success is measured."""

    protocol: str | None = None
    """A protocol of the suite by name (`vla-rl list protocols`); it sets starts and horizon."""
    episodes_per_task: int = 100
    """Starts for each task, when no protocol is named."""
    starts: Literal["eval", "validation"] = "eval"
    """Which starts: `eval` to report a number; `validation`, which no report uses, to choose
    settings or a policy by. Training and demonstrations use neither."""

    def __post_init__(self) -> None:
        if self.episodes_per_task < 1:
            raise ValueError(f"episodes_per_task must be at least 1, got {self.episodes_per_task}")
        if self.starts not in ("eval", "validation"):
            raise ValueError(f"starts must be 'eval' or 'validation', got {self.starts!r}")


def resolve(world: World, config: EvalConfig) -> tuple[World, EvalProtocol]:
    """The world and protocol of an evaluation.

    Raises:
        ValueError: If the protocol is unknown, or asks for other settings than the world's.
    """
    named = vars(plugins.load("envs", world.suite)).get("PROTOCOLS", {})
    if config.protocol is None:
        steps = max(task.max_steps for task in world.resolved())
        protocol = EvalProtocol("custom", config.episodes_per_task, steps, starts=config.starts)
        return world, protocol
    if config.protocol not in named:
        raise ValueError(plugins.unknown("protocol", config.protocol, named))
    protocol = dataclasses.replace(named[config.protocol], starts=config.starts)
    settings = world.settings()
    for name, wanted in protocol.settings.items():
        found = vars(settings)[name]
        if found != wanted:
            raise ValueError(
                f"protocol {protocol.name} asks for {name} = {wanted}, but this policy was trained "
                f"with {name} = {found}; train one with that setting, or use another protocol"
            )
    return dataclasses.replace(world, max_steps=(protocol.max_steps,)), protocol


def protocol_id(world: World, protocol: EvalProtocol) -> str:
    """A readable name of everything that determines the number."""
    settings = to_json(world.settings())
    shown = ",".join(
        f"{name}={'+'.join(value) if isinstance(value, list) else value}"
        for name, value in sorted(settings.items())
    )
    tasks = sorted(world.resolved(), key=lambda task: task.id)
    digest = hashlib.sha256(" ".join(task.id for task in tasks).encode()).hexdigest()[:8]
    horizons = [str(task.max_steps) for task in tasks]
    steps = horizons[0] if len(set(horizons)) == 1 else "+".join(horizons)
    said = "" if world.instruction is None else f":{world.instruction!r}"
    # Results of versions that knew no other starts than those of reports keep their id.
    starts = "" if protocol.starts == "eval" else f":{protocol.starts}"
    return (
        f"{protocol.name}:{world.suite}:{protocol.episodes_per_task}x{steps}steps:"
        f"{shown}:{len(tasks)}tasks-{digest}{said}{starts}"
    )


class Outcome(NamedTuple):
    """How one episode ended, without what was seen and done in it.

    Attributes:
        spec: The start it was played from.
        success: Whether the task was solved.
        steps: Environment steps.
        subgoals_done: The subgoals that were completed.
    """

    spec: EpisodeSpec
    success: bool
    steps: int
    subgoals_done: tuple[str, ...]

    @classmethod
    def of(cls, t: Trajectory) -> Outcome:
        """That of a trajectory."""
        return cls(t.spec, t.success, t.steps, t.subgoals_done)


def evaluate(
    collector: Collector,
    policy: Policy,
    world: World,
    config: EvalConfig,
    on_episode: OnEpisode = lambda task, share: None,
    renderer: str = "",
    ranks: Ranks = ALONE,
) -> tuple[EvalResult, list[Trajectory]]:
    """Play every start of every task once with the mean action.

    Args:
        collector: Of the world's suite.
        policy: What is evaluated.
        world: Where.
        config: Which starts and horizon.
        on_episode: Called with task id and completed share (success for a single task) of every
            episode.
        renderer: What drew the images, for the record.
        ranks: Processes that share the starts; every one gets the result of all.

    Returns:
        The result, and the trajectories that were played here in the order of tasks and starts.
    """
    world, protocol = resolve(world, config)
    specs = ranks.share(world.specs(protocol.starts, protocol.episodes_per_task))
    policy.remember([task.instruction for task in world.resolved()])
    rollout = collector.collect(
        policy, specs, [0] * len(specs), PlaySettings(greedy=True), on_episode
    )
    outcomes = ranks.gather([Outcome.of(t) for t in rollout.trajectories])
    return _result(outcomes, world, protocol, renderer), rollout.trajectories


def _result(
    outcomes: Sequence[Outcome], world: World, protocol: EvalProtocol, renderer: str
) -> EvalResult:
    by_task: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_task.setdefault(outcome.spec.task.id, []).append(outcome)
    tasks = {
        task: TaskResult(
            seeds=tuple(t.spec.seed for t in episodes),
            success=tuple(t.success for t in episodes),
            steps=tuple(t.steps for t in episodes),
            subgoals=episodes[0].spec.task.subgoals,
            completed=tuple(t.subgoals_done for t in episodes),
        )
        for task, episodes in by_task.items()
    }
    settings: dict[str, Any] = to_json(world.settings())
    buckets = vars(plugins.load("envs", world.suite)).get("BUCKETS", {})
    return EvalResult(
        protocol_id=protocol_id(world, protocol),
        suite=world.suite,
        horizon=protocol.max_steps,
        settings=settings,
        renderer=renderer,
        tasks=tasks,
        buckets={name: tuple(ids) for name, ids in buckets.items()},
    )
