"""Evaluation: every (task, start) exactly once, greedily, under a named protocol.

A protocol id is a sentence of everything that changes the number: name, starts, horizon, suite
settings (cameras, image size, quality), tasks, and an instruction that is not their own. Results of
different ids are never compared.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

from vla_rl import plugins
from vla_rl.collector import Collector, OnEpisode
from vla_rl.config import World, to_json
from vla_rl.policy import Policy
from vla_rl.rollout import PlaySettings
from vla_rl.statistics import EvalResult, TaskResult
from vla_rl.types import EvalProtocol, Trajectory


@dataclass(frozen=True)
class EvalConfig:
    """How success is measured."""

    protocol: str | None = None
    """A protocol of the suite by name (`vla-rl list protocols`); it sets starts and horizon."""
    episodes_per_task: int = 100
    """Starts for each task, when no protocol is named."""

    def __post_init__(self) -> None:
        if self.episodes_per_task < 1:
            raise ValueError(f"episodes_per_task must be at least 1, got {self.episodes_per_task}")


def resolve(world: World, config: EvalConfig) -> tuple[World, EvalProtocol]:
    """The world and protocol of an evaluation.

    Raises:
        ValueError: If the protocol is unknown, or asks for other settings than the world's.
    """
    named = vars(plugins.load("envs", world.suite)).get("PROTOCOLS", {})
    if config.protocol is None:
        steps = max(task.max_steps for task in world.resolved())
        protocol = EvalProtocol("custom", config.episodes_per_task, steps)
        return world, protocol
    if config.protocol not in named:
        raise ValueError(plugins.unknown("protocol", config.protocol, named))
    protocol = named[config.protocol]
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
    return (
        f"{protocol.name}:{world.suite}:{protocol.episodes_per_task}x{steps}steps:"
        f"{shown}:{len(tasks)}tasks-{digest}{said}"
    )


def evaluate(
    collector: Collector,
    policy: Policy,
    world: World,
    config: EvalConfig,
    on_episode: OnEpisode,
    renderer: str = "",
) -> tuple[EvalResult, list[Trajectory]]:
    """Play every evaluation start of every task once with the mean action.

    Args:
        collector: Of the world's suite.
        policy: What is evaluated.
        world: Where.
        config: Which starts and horizon.
        on_episode: Called with task id and completed share (success for a single task) of every
            episode.
        renderer: What drew the images, for the record.

    Returns:
        The result, and the trajectories in the order of tasks and starts.
    """
    world, protocol = resolve(world, config)
    specs = world.specs("eval", protocol.episodes_per_task)
    policy.remember([task.instruction for task in world.resolved()])
    rollout = collector.collect(
        policy, specs, [0] * len(specs), PlaySettings(greedy=True), on_episode
    )
    return _result(rollout.trajectories, world, protocol, renderer), rollout.trajectories


def _result(
    trajectories: list[Trajectory], world: World, protocol: EvalProtocol, renderer: str
) -> EvalResult:
    by_task: dict[str, list[Trajectory]] = {}
    for trajectory in trajectories:
        by_task.setdefault(trajectory.spec.task.id, []).append(trajectory)
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
