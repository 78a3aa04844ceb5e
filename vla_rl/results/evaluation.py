"""Results of evaluations, with confidence intervals.

Intervals of one share are Wilson's; those of a difference between two evaluations of the *same*
initial states are Newcombe's for paired shares; means over tasks combine the tasks' intervals
(MOVER), which is also valid with few episodes or tasks that always fail, where a bootstrap has no
width. A sequence of subgoals has no single success: each episode completes a share of it. The same
intervals are then slightly conservative, because a number in [0, 1] has at most the variance of a
Bernoulli variable with the same mean.

References:
    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
    Newcombe, "Improved confidence intervals for the difference between binomial proportions based
    on paired data", Statistics in Medicine 1998, method 10.
    Zou and Donner, "Construction of confidence limits about effect measures", Statistics in
    Medicine 2008 (MOVER).
    McNemar, "Note on the sampling error of the difference between correlated proportions", 1947
    (its exact form is the sign test).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from vla_rl.results.intervals import (
    Estimate,
    PairedDifference,
    estimate,
    mean_over_tasks,
    mean_paired_difference,
    paired_difference,
)
from vla_rl.results.protocol_id import ProtocolId, shortest

_MOST_NAMED = 6  # horizons that are listed one by one


@dataclass(frozen=True)
class TaskResult:
    """Episodes of one task, one per start.

    Attributes:
        seeds: Seed of every start.
        success: Whether each episode was solved; a sequence, in all its parts.
        steps: Environment steps of each episode.
        subgoals: Parts of the task, if it is a sequence.
        completed: Parts that each episode completed; only used for a sequence.
    """

    seeds: tuple[int, ...]
    success: tuple[bool, ...]
    steps: tuple[int, ...]
    subgoals: tuple[str, ...] = ()
    completed: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.subgoals and len(self.completed) != len(self.seeds):
            raise ValueError(
                f"the result of a sequence needs the completed subgoals of all {len(self.seeds)} "
                f"episodes, got {len(self.completed)}"
            )
        if not len(self.seeds) == len(self.success) == len(self.steps) or not self.seeds:
            raise ValueError(
                "a task result needs one outcome and length for every seed and at least one, got "
                f"{len(self.success)} outcomes and {len(self.steps)} lengths for "
                f"{len(self.seeds)} seeds"
            )
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("a task result has a seed twice; every start is played once")

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return len(self.success)

    @property
    def successes(self) -> int:
        """Number of successful episodes."""
        return sum(self.success)

    @property
    def rate(self) -> Estimate:
        """Success rate with Wilson's interval."""
        return estimate(self.success)

    @property
    def shares(self) -> tuple[float, ...]:
        """Completed share of each episode; success as 0 or 1 if the task is no sequence."""
        if not self.subgoals:
            return tuple(float(success) for success in self.success)
        return tuple(len(done) / len(self.subgoals) for done in self.completed)

    @property
    def share(self) -> Estimate:
        """Mean completed share; the success rate if the task is no sequence."""
        return estimate(self.shares)

    def measures(self) -> dict[str, tuple[float, ...]]:
        """All measures by name, with the value of each episode in [0, 1].

        For a task its success; for a sequence the completed share, whether at least k of its n
        parts were completed, and each part.
        """
        if not self.subgoals:
            return {"success": self.shares}
        n = len(self.subgoals)
        counts = [len(done) for done in self.completed]
        at_least = {
            f"at least {k} of {n}" if k < n else f"all {n}": tuple(float(c >= k) for c in counts)
            for k in range(1, n + 1)
        }
        parts = {
            part: tuple(float(part in done) for done in self.completed) for part in self.subgoals
        }
        return {f"share of {n} completed": self.shares, **at_least, **parts}

    @property
    def solved_steps(self) -> float | None:
        """Mean number of environment steps of the solved episodes; None if there are none."""
        solved = self._lengths()
        return float(np.mean(solved)) if solved else None

    @property
    def median_steps(self) -> float | None:
        """Median number of environment steps of the solved episodes; None if there are none."""
        solved = self._lengths()
        return float(np.median(solved)) if solved else None

    def within(self, steps: int) -> TaskResult:
        """The result of a shorter evaluation, if success ends an episode.

        Raises:
            ValueError: If the task is a sequence with a longer episode, because the times at which
                its parts were completed are not kept.
        """
        late = max(self.steps) > steps
        if self.subgoals and late:
            raise ValueError(
                f"how much of a sequence is completed within {steps} steps is not known: the times "
                "at which its parts were completed are not kept; evaluate at that horizon"
            )
        in_time = zip(self.success, self.steps, strict=True)
        return replace(
            self,
            success=tuple(success and taken <= steps for success, taken in in_time),
            steps=tuple(min(taken, steps) for taken in self.steps),
        )

    def _lengths(self) -> list[int]:
        return [n for n, success in zip(self.steps, self.success, strict=True) if success]

    def by_seed(self) -> dict[int, float]:
        """Completed share (success as 0 or 1 if the task is no sequence) by start."""
        return dict(zip(self.seeds, self.shares, strict=True))


@dataclass(frozen=True)
class EvalResult:
    """One evaluation of one policy.

    Attributes:
        protocol_id: Name of everything that determines the result; only results with equal ids are
            comparable.
        suite: Name of the suite.
        horizon: Longest episode, in environment steps.
        settings: The suite's settings (cameras, image size, quality), as JSON data.
        renderer: Description of the renderer.
        tasks: Outcomes by task id.
        buckets: Task ids by difficulty; ids that were not evaluated are ignored.
        policy: Where the policy was stored, for information.
        also_within: Additional shorter horizons by task id at which success is reported, shortest
            first.
    """

    protocol_id: str
    suite: str
    horizon: int
    settings: dict[str, Any]
    renderer: str
    tasks: dict[str, TaskResult]
    buckets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    policy: str = ""
    also_within: tuple[dict[str, int], ...] = ()

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("an evaluation needs at least one task")

    @property
    def horizons(self) -> dict[str, int]:
        """Horizon of each task in environment steps, from the protocol id.

        Raises:
            ValueError: If vla-rl did not make the protocol id.
        """
        known = ProtocolId.of(self.protocol_id, self.suite).horizons
        each = known * len(self.tasks) if len(known) == 1 else known
        by_task = dict(zip(sorted(self.tasks), each, strict=True))
        return {task: by_task[task] for task in self.tasks}

    def within(self, steps: int | Mapping[str, int]) -> EvalResult:
        """The result of evaluating the same policy at a shorter horizon.

        Success ends an episode and a policy does not observe the time, so the longer episodes
        contain the shorter ones.

        Args:
            steps: The horizon in environment steps, for all tasks or by task id.

        Raises:
            ValueError: If a horizon is below 1 or longer than what was evaluated, a task has none,
                success does not end an episode, or a task is a sequence of which an episode lasted
                longer.
        """
        longest = self.horizons
        wanted = dict.fromkeys(longest, steps) if isinstance(steps, int) else dict(steps)
        if wanted.keys() != longest.keys():
            raise ValueError(f"need a horizon for each of {list(longest)}, got {list(wanted)}")
        for task, horizon in wanted.items():
            if not 1 <= horizon <= longest[task]:
                raise ValueError(
                    f"success of {task} within {horizon} steps is not known: it was evaluated for "
                    f"{longest[task]}; give 1 to {longest[task]}"
                )
        if wanted != longest and not self.settings.get("success_ends", True):
            raise ValueError(
                f"success within {sorted(set(wanted.values()))} steps is not known: success does "
                "not end an episode of this suite, so only the last step counts; evaluate at that "
                "horizon"
            )
        protocol = ProtocolId.of(self.protocol_id, self.suite)
        return replace(
            self,
            protocol_id=str(protocol.with_horizons([wanted[task] for task in sorted(wanted)])),
            horizon=max(wanted.values()),
            tasks={name: task.within(wanted[name]) for name, task in self.tasks.items()},
            also_within=(),
        )

    def each_horizon(self) -> list[EvalResult]:
        """The result at every reported horizon, shortest first; the last is the result itself."""
        return [*(self.within(horizons) for horizons in self.also_within), self]

    @property
    def mean(self) -> Estimate:
        """Unweighted mean over tasks of success, or of completed share where one is a sequence."""
        return mean_over_tasks(task.share for task in self.tasks.values())

    @property
    def has_sequences(self) -> bool:
        """Whether any of the tasks is a sequence."""
        return any(task.subgoals for task in self.tasks.values())

    @property
    def solved_steps(self) -> float | None:
        """Mean over tasks of the mean length of solved episodes; None if a task has none."""
        each = [task.solved_steps for task in self.tasks.values()]
        return None if None in each else float(np.mean(each))  # type: ignore[arg-type]

    @property
    def median_steps(self) -> float | None:
        """Mean over tasks of the median length of solved episodes; None if a task has none."""
        each = [task.median_steps for task in self.tasks.values()]
        return None if None in each else float(np.mean(each))  # type: ignore[arg-type]

    def bucket_means(self) -> dict[str, Estimate]:
        """Mean over the evaluated tasks of each bucket."""
        return {
            name: mean_over_tasks(self.tasks[task].share for task in ids)
            for name, ids in self.evaluated_buckets().items()
        }

    def evaluated_buckets(self) -> dict[str, tuple[str, ...]]:
        """Buckets with the tasks that were evaluated; empty ones are left out."""
        present = {
            name: tuple(task for task in ids if task in self.tasks)
            for name, ids in self.buckets.items()
        }
        return {name: ids for name, ids in present.items() if ids}

    def to_json(self) -> str:
        """The result as JSON, with rates and intervals for other programs."""
        data = asdict(self)
        for name, task in self.tasks.items():
            rate = task.rate
            data["tasks"][name] |= {
                "successes": task.successes,
                "episodes": task.episodes,
                "wilson": [rate.low, rate.high],
                "solved_steps": task.solved_steps,
                "median_steps": task.median_steps,
            }
            if task.subgoals:
                told = {name: list(estimate(values)) for name, values in task.measures().items()}
                data["tasks"][name]["measures"] = told
        data |= {"mean": self.mean.value, "mean_interval": list(self.mean[1:])}
        data["bucket_means"] = {name: e.value for name, e in self.bucket_means().items()}
        return json.dumps(data, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> EvalResult:
        """Read a result that :meth:`to_json` wrote.

        Raises:
            ValueError: If the text is not such a result.
        """
        try:
            data = json.loads(text)
            tasks = {
                name: TaskResult(
                    tuple(t["seeds"]),
                    tuple(t["success"]),
                    tuple(t["steps"]),
                    tuple(t.get("subgoals", ())),  # results of earlier versions have none
                    tuple(tuple(done) for done in t.get("completed", ())),
                )
                for name, t in data["tasks"].items()
            }
            buckets = {name: tuple(ids) for name, ids in data["buckets"].items()}
            plain = ("protocol_id", "suite", "horizon", "settings", "renderer", "policy")
            also_within = tuple(data.get("also_within", ()))  # earlier versions have none
            return cls(
                **{name: data[name] for name in plain},
                tasks=tasks,
                buckets=buckets,
                also_within=also_within,
            )
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"not an evaluation result ({type(error).__name__}: {error}); expected the JSON "
                "that `vla-rl eval` writes"
            ) from error


@dataclass(frozen=True)
class Comparison:
    """Differences between two evaluations.

    Attributes:
        tasks: By task id.
        buckets: Mean over the tasks of each bucket.
        mean: Mean over all tasks.
    """

    tasks: dict[str, PairedDifference]
    buckets: dict[str, PairedDifference]
    mean: PairedDifference


class ComparisonRow(NamedTuple):
    """A line of a table: one measure of a task before and after.

    Attributes:
        name: Of the task, and of the measure if it is a sequence.
        before: Estimate before.
        after: Estimate after.
        change: On the same starts.
        kind: ``"task"`` for the first measure of a task, ``"part"`` for others.
    """

    name: str
    before: Estimate
    after: Estimate
    change: PairedDifference
    kind: str


def comparison_rows(task: str, before: TaskResult, after: TaskResult) -> list[ComparisonRow]:
    """Every measure of a task before and after, paired by start."""
    order = [after.seeds.index(seed) for seed in before.seeds]
    now = after.measures()
    rows: list[ComparisonRow] = []
    for measure, outcomes in before.measures().items():
        later = [now[measure][i] for i in order]
        name = f"{task}: {measure}" if before.subgoals else task
        change = paired_difference(outcomes, later)
        kind = "part" if rows else "task"
        rows.append(ComparisonRow(name, estimate(outcomes), estimate(later), change, kind))
    return rows


def compare(before: EvalResult, after: EvalResult) -> Comparison:
    """Compare two evaluations start by start.

    Raises:
        ValueError: If their protocols differ, naming both, or their tasks or starts.
    """
    if before.protocol_id != after.protocol_id:
        raise ValueError(
            "results of different protocols cannot be compared: before is "
            f"{before.protocol_id!r}, after is {after.protocol_id!r}; evaluate both under one"
        )
    if set(before.tasks) != set(after.tasks):
        raise ValueError(
            f"tasks differ: {sorted(before.tasks)} before, {sorted(after.tasks)} after"
        )
    was, now = {}, {}
    for task, result in before.tasks.items():
        first, second = result.by_seed(), after.tasks[task].by_seed()
        if set(first) != set(second):
            raise ValueError(f"the starts of {task} differ between the two evaluations")
        was[task] = list(first.values())
        now[task] = [second[seed] for seed in first]
    return Comparison(
        tasks={task: paired_difference(was[task], now[task]) for task in was},
        buckets={
            name: mean_paired_difference({t: was[t] for t in ids}, {t: now[t] for t in ids})
            for name, ids in before.evaluated_buckets().items()
        },
        mean=mean_paired_difference(was, now),
    )


def paired_horizons(before: EvalResult, after: EvalResult) -> list[tuple[EvalResult, EvalResult]]:
    """Both results at every horizon at which either is reported, shortest first.

    Raises:
        ValueError: If their protocols differ.
    """
    compare(before, after)
    told = {
        tuple(horizons[task] for task in before.tasks): horizons
        for result in (before, after)
        for horizons in result.also_within
    }
    shorter = [(before.within(told[key]), after.within(told[key])) for key in sorted(told)]
    return [*shorter, (before, after)]


def horizon_text(result: EvalResult) -> str:
    """The horizon as text: ``within 100/90 steps``, in the order of the tasks."""
    try:
        each = tuple(result.horizons.values())
    except ValueError:  # a result of another program, without horizons in its protocol
        return f"within {result.horizon} steps"
    if len(shortest(each)) > _MOST_NAMED:
        return f"within {min(each)} to {max(each)} steps"
    return f"within {'/'.join(map(str, shortest(each)))} steps"
