"""Evaluation: every (task, start) exactly once, greedily, under a named protocol.

Success ends an episode and a policy does not observe the time, so one evaluation at a long horizon
also gives the success rate at every shorter one. Where it is longer than the horizon of training,
success within that horizon is reported beside it: the difference is what is solved, but slowly.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from vla_rl import plugins
from vla_rl.config import to_json
from vla_rl.learning.distributed import ALONE, Ranks
from vla_rl.policy import Policy
from vla_rl.results.evaluation import EvalResult, TaskResult
from vla_rl.results.protocol_id import CUSTOM, ProtocolId, shortest
from vla_rl.rollout.collector import Collector, OnEpisode
from vla_rl.rollout.play import PlaySettings
from vla_rl.types import EpisodeSpec, EvalProtocol, Trajectory
from vla_rl.world import Arena


@dataclass(frozen=True)
class EvalConfig:
    """How a policy is evaluated."""

    protocol: str | None = None
    """Name of a protocol of the suite (`vla-rl list protocols`), which sets starts and horizon."""
    episodes_per_task: int = 100
    """Number of starts per task when no protocol is named; at least 1."""
    starts: Literal["eval", "validation"] = "eval"
    """Set of starts: `eval` for numbers to report, or `validation` for choosing settings or a
    policy. Training and demonstrations use neither."""
    max_steps: int = 0
    """Horizon in environment steps when no protocol is named; 0 uses --max-steps, by default the
    horizon of training. If that one is shorter, success within it is reported as well."""
    also_within: tuple[int, ...] = ()
    """Additional shorter horizons in environment steps at which success is reported, from the same
    episodes."""

    def __post_init__(self) -> None:
        if self.episodes_per_task < 1:
            raise ValueError(f"episodes_per_task must be at least 1, got {self.episodes_per_task}")
        if self.starts not in ("eval", "validation"):
            raise ValueError(f"starts must be 'eval' or 'validation', got {self.starts!r}")
        if self.max_steps < 0:
            raise ValueError(f"eval.max_steps must be 0 or more, got {self.max_steps}")
        if self.max_steps and self.protocol is not None:
            raise ValueError(
                f"eval.max_steps {self.max_steps}: protocol {self.protocol} sets the horizon; give "
                "one of the two, or a shorter one as --eval.also-within"
            )
        if min(self.also_within, default=1) < 1:
            raise ValueError(f"eval.also_within must be at least 1, got {list(self.also_within)}")


def with_protocol(arena: Arena, config: EvalConfig) -> tuple[Arena, EvalProtocol]:
    """The arena with the horizon of an evaluation, and the protocol of that evaluation.

    Raises:
        ValueError: If the protocol is unknown or requires other settings than the arena's, if the
            horizon is longer than the suite's, or if success within a shorter one is not recorded.
    """
    played, protocol = _with_protocol(arena, config)
    longest = played.horizons
    for steps in config.also_within:
        if steps > min(longest.values()):
            raise ValueError(
                f"eval.also_within {steps} is longer than the evaluation, which ends after "
                f"{min(longest.values())} steps; give shorter ones, or raise --eval.max-steps"
            )
    if config.also_within and (why := _untold(played)):
        raise ValueError(f"eval.also_within {list(config.also_within)}: {why}; leave it out")
    return played, protocol


def shorter_horizons(arena: Arena, config: EvalConfig) -> tuple[dict[str, int], ...]:
    """Additional horizons by task at which success is reported, shortest first.

    They are the requested ones, and the arena's own where it is shorter and success within it is
    known.
    """
    played, _ = with_protocol(arena, config)
    longest = played.horizons
    wanted = [dict.fromkeys(longest, steps) for steps in config.also_within]
    own = {task: min(steps, longest[task]) for task, steps in arena.horizons.items()}
    if own != longest and not _untold(played):
        wanted.append(own)
    distinct = {tuple(horizons.values()): horizons for horizons in wanted if horizons != longest}
    return tuple(distinct[key] for key in sorted(distinct))


def _untold(arena: Arena) -> str:
    """Why success within a shorter horizon is not known from a longer one; empty if it is."""
    if not arena.success_ends:
        return "success does not end an episode of this suite, so only its last step counts"
    sequences = [task.id for task in arena.tasks if task.subgoals]
    if sequences:
        return f"the times at which the parts of {', '.join(sequences)} are completed are not kept"
    return ""


def _with_protocol(arena: Arena, config: EvalConfig) -> tuple[Arena, EvalProtocol]:
    named = arena.protocols
    if config.protocol is None:
        if config.max_steps:
            arena = _lengthened(arena, config.max_steps)
        steps = max(arena.horizons.values())
        protocol = EvalProtocol(CUSTOM, config.episodes_per_task, steps, starts=config.starts)
        return arena, protocol
    if config.protocol not in named:
        raise ValueError(plugins.unknown("protocol", config.protocol, named))
    protocol = dataclasses.replace(named[config.protocol], starts=config.starts)
    for name, wanted in protocol.settings.items():
        found = vars(arena.settings)[name]
        if found != wanted:
            raise ValueError(
                f"protocol {protocol.name} requires {name} = {wanted}, but this policy was trained "
                f"with {name} = {found}; train one with that setting, or use another protocol"
            )
    return arena.replaced(max_steps=(protocol.max_steps,)), protocol


def _lengthened(arena: Arena, steps: int) -> Arena:
    """The arena with one horizon for all tasks, checked before any simulator is made."""
    most = {task.id: task.max_steps for task in arena.suite.tasks()}
    for task in arena.tasks:
        allowed = max(most[task.id], task.max_steps)
        if steps > allowed:
            raise ValueError(
                f"eval.max_steps {steps} is longer than the {allowed} steps that {task.id} has in "
                f"{arena.world.suite}; give at most those"
            )
    return arena.replaced(max_steps=(steps,))


def protocol_id(arena: Arena, protocol: EvalProtocol) -> str:
    """A readable name for everything that determines the result of an evaluation."""
    settings = to_json(arena.settings)
    shown = ",".join(
        f"{name}={'+'.join(value) if isinstance(value, list) else value}"
        for name, value in sorted(settings.items())
    )
    tasks = sorted(arena.tasks, key=lambda task: task.id)
    digest = hashlib.sha256(" ".join(task.id for task in tasks).encode()).hexdigest()[:8]
    said = "" if arena.world.instruction is None else f":{arena.world.instruction!r}"
    # Results of versions without validation starts keep their id.
    starts = "" if protocol.starts == "eval" else f":{protocol.starts}"
    return str(
        ProtocolId(
            protocol.name,
            arena.world.suite,
            protocol.episodes_per_task,
            shortest([task.max_steps for task in tasks]),
            f"{shown}:{len(tasks)}tasks-{digest}{said}{starts}",
        )
    )


class EpisodeResult(NamedTuple):
    """Result of one episode, without its observations and actions.

    Attributes:
        spec: The start that it was played from.
        success: Whether the task was solved.
        steps: Environment steps.
        subgoals_done: The subgoals that were completed.
    """

    spec: EpisodeSpec
    success: bool
    steps: int
    subgoals_done: tuple[str, ...]

    @classmethod
    def of(cls, t: Trajectory) -> EpisodeResult:
        """The result of a trajectory."""
        return cls(t.spec, t.success, t.steps, t.subgoals_done)


def evaluate(
    collector: Collector,
    policy: Policy,
    arena: Arena,
    config: EvalConfig,
    on_episode: OnEpisode = lambda task, share: None,
    renderer: str = "",
    ranks: Ranks = ALONE,
) -> tuple[EvalResult, list[Trajectory]]:
    """Play every start of every task once with the mean action.

    Args:
        collector: Plays the episodes, in the arena's suite.
        policy: The policy to evaluate.
        arena: Suite, tasks and horizons.
        config: Starts, horizon and protocol.
        on_episode: Called after every episode with its task id and the completed share of its
            subgoals (success as 0 or 1 for a task without any).
        renderer: Description of what draws the images, stored with the result.
        ranks: Processes that share the starts; each of them gets the result of all.

    Returns:
        The result, and the trajectories that this process played, by task and start.
    """
    shorter = shorter_horizons(arena, config)
    arena, protocol = with_protocol(arena, config)
    specs = ranks.share(arena.specs(protocol.starts, protocol.episodes_per_task))
    policy.remember(arena.instructions)
    rollout = collector.collect(
        policy, specs, [0] * len(specs), PlaySettings(greedy=True), on_episode
    )
    outcomes = ranks.gather([EpisodeResult.of(t) for t in rollout.trajectories])
    result = _result(outcomes, arena, protocol, renderer)
    return dataclasses.replace(result, also_within=shorter), rollout.trajectories


def _result(
    outcomes: Sequence[EpisodeResult], arena: Arena, protocol: EvalProtocol, renderer: str
) -> EvalResult:
    by_task: dict[str, list[EpisodeResult]] = {}
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
    settings: dict[str, Any] = to_json(arena.settings)
    buckets = arena.offered("BUCKETS", {})
    return EvalResult(
        protocol_id=protocol_id(arena, protocol),
        suite=arena.world.suite,
        horizon=protocol.max_steps,
        settings=settings,
        renderer=renderer,
        tasks=tasks,
        buckets={name: tuple(ids) for name, ids in buckets.items()},
    )
