"""Evaluating with live progress."""

from __future__ import annotations

from vla_rl.evaluate import EvalConfig, evaluate, resolve
from vla_rl.policy import PolicyBase
from vla_rl.results.evaluation import EvalResult
from vla_rl.rollout.collector import Collector
from vla_rl.stages.progress import Progress, Tally
from vla_rl.stages.setup import renderer
from vla_rl.types import Trajectory
from vla_rl.world import World


def evaluate_stage(
    collector: Collector, policy: PolicyBase, world: World, config: EvalConfig, title: str
) -> tuple[EvalResult, list[Trajectory]]:
    """Evaluate with live progress."""
    resolved, protocol = resolve(world, config)
    count = protocol.episodes_per_task * len(resolved.resolved())
    with Progress(title, count) as progress:
        return evaluate(collector, policy, world, config, Tally(progress), renderer(world))
