"""Evaluation with a progress line."""

from __future__ import annotations

from vla_rl.evaluate import EvalConfig, evaluate, with_protocol
from vla_rl.policy import PolicyBase
from vla_rl.results.evaluation import EvalResult
from vla_rl.rollout.collector import Collector
from vla_rl.stages.progress import Progress, Tally
from vla_rl.types import Trajectory
from vla_rl.world import Arena


def evaluate_stage(
    collector: Collector, policy: PolicyBase, arena: Arena, config: EvalConfig, title: str
) -> tuple[EvalResult, list[Trajectory]]:
    """Evaluate a policy and show progress."""
    _, protocol = with_protocol(arena, config)
    count = protocol.episodes_per_task * len(arena.tasks)
    with Progress(title, count) as progress:
        return evaluate(collector, policy, arena, config, Tally(progress), arena.renderer())
