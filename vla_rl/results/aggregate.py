"""Aggregating training runs: learning curves over seeds, with confidence intervals.

Runs of one label differ only in their seed. Their success is summarised by the interquartile mean
over runs and tasks, which is less sensitive to a single run or task than the mean and uses more of
the data than the median. Intervals are over runs, so there is none for a single run.

References:
    Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice",
    NeurIPS 2021, arXiv 2108.13264 ("rliable").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from vla_rl.results.intervals import CONFIDENCE, mean_interval
from vla_rl.results.run_folders import ALL, FinishedRun, Numbers

RESAMPLES = 2000
POINTS = 100

# ---------------------------------------------------------------------------------------- numbers


class Score(NamedTuple):
    """A number and its interval over runs, if there are at least two of them."""

    value: float
    interval: tuple[float, float] | None


def iqm(values: ArrayLike) -> Any:
    """Interquartile mean over the first axis: the mean without the lowest and highest quarter.

    A quarter is rounded down to whole values, so with fewer than four all are used.

    Args:
        values: ``[n]`` or ``[n, ...]``, n at least 1.

    Returns:
        A float, or ``[...]``.

    Raises:
        ValueError: If there are no values.
    """
    array = np.asarray(values, float)
    if array.ndim == 0 or len(array) == 0:
        raise ValueError("cannot take the interquartile mean of no values")
    return scipy.stats.trim_mean(array, 0.25, axis=0)


def bootstrap_interval(
    scores: Numbers, resamples: int = RESAMPLES, seed: int = 0, confidence: float = CONFIDENCE
) -> tuple[Any, Any]:
    """Stratified bootstrap percentile interval of the IQM over runs and tasks.

    As in the paper, every resample holds each task as often as there are runs, and draws its runs
    anew for each task. It thus takes the tasks of one run for independent; runs that are good or
    bad at all tasks at once make the interval too narrow. So does a small number of runs.

    Args:
        scores: ``[runs, tasks]`` or ``[runs, tasks, points]``.
        resamples: Number of resamples.
        seed: Seed of the resampling, so that the same runs always give the same interval.
        confidence: Confidence level in (0, 1).

    Returns:
        Lower and upper end, floats or each ``[points]``.

    Raises:
        ValueError: If there are fewer than two runs.
    """
    runs, tasks = scores.shape[:2]
    if runs < 2:
        raise ValueError(f"an interval over runs needs at least 2 of them, got {runs}")
    rng = np.random.default_rng(seed)
    found = np.empty((resamples, *scores.shape[2:]))
    for i in range(resamples):
        drawn = rng.integers(runs, size=(runs, tasks))
        found[i] = _over_runs_and_tasks(scores[drawn, np.arange(tasks)])
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high


def _over_runs_and_tasks(scores: Numbers) -> Any:
    return iqm(scores.reshape(-1, *scores.shape[2:]))


def trailing_mean(values: Numbers, window: int) -> Numbers:
    """Mean of each value and up to ``window - 1`` before it, ``[n]`` to ``[n]``.

    Raises:
        ValueError: If the window is below 1.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1 iteration, got {window}")
    return np.array([values[max(0, i - window + 1) : i + 1].mean() for i in range(len(values))])


# ----------------------------------------------------------------------------------------- curves


@dataclass(frozen=True)
class Curve:
    """Success over environment steps of all runs of a label.

    Attributes:
        label: Label of the runs.
        runs: Number of runs.
        env_steps: ``[points]`` environment steps.
        success: ``[points]`` in [0, 1].
        low: ``[points]``, lower end of the interval over runs; None for one run.
        high: ``[points]``, upper end; None for one run.
    """

    label: str
    runs: int
    env_steps: Numbers
    success: Numbers
    low: Numbers | None = None
    high: Numbers | None = None


@dataclass(frozen=True)
class LabelSummary:
    """Results of the runs of one label.

    Attributes:
        curve: Their learning curve.
        seeds: Their seeds.
        env_steps: Total environment steps of each run.
        held_out: Mean over runs of success on held-out starts, with Student's t interval; None if
            a run was not evaluated.
        solved_steps: Mean over runs of the length of solved held-out episodes, with Student's t
            interval; None if a run was not evaluated or never solved one of the tasks.
        reached: Environment steps at which runs first reached the threshold, for those that did.
        shares: Wall time of training by part, in [0, 1].
    """

    curve: Curve
    seeds: tuple[int, ...]
    env_steps: tuple[int, ...]
    held_out: Score | None
    solved_steps: Score | None
    reached: tuple[float, ...]
    shares: dict[str, float]

    @property
    def final(self) -> Score:
        """Training success at the end of the curve."""
        low, high = self.curve.low, self.curve.high
        interval = None if low is None or high is None else (float(low[-1]), float(high[-1]))
        return Score(float(self.curve.success[-1]), interval)

    @property
    def steps_to_threshold(self) -> float | None:
        """IQM over the runs that reached the threshold; None if none did."""
        return float(iqm(self.reached)) if self.reached else None


def summarise(
    groups: Mapping[str, Sequence[FinishedRun]], window: int, threshold: float
) -> list[LabelSummary]:
    """Summarise the runs of every label, over the environment steps that all runs have.

    Args:
        groups: Runs by label, from :func:`vla_rl.results.run_folders.group`.
        window: Iterations of the trailing mean, at least 1.
        threshold: Success in (0, 1] to reach, of a run's IQM over tasks.

    Raises:
        ValueError: If the window or threshold is out of range, or a run never played a task.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
    every = [run for runs in groups.values() for run in runs]
    tasks = list(every[0].horizons)
    if tasks == [ALL]:
        tasks = sorted({task for run in every for task in run.success})
    grid = common_grid(every)
    return [
        _summary(label, runs, grid, np.stack([align(r, tasks, grid, window) for r in runs]),
                 threshold)
        for label, runs in groups.items()
    ]  # fmt: skip


def common_grid(runs: Sequence[FinishedRun], points: int = POINTS) -> Numbers:
    """Evenly spaced environment steps at which all runs have data."""
    end = min(run.env_steps[-1] for run in runs)
    return np.linspace(min(max(run.env_steps[0] for run in runs), end), end, points)


def align(run: FinishedRun, tasks: Sequence[str], grid: Numbers, window: int) -> Numbers:
    """Success of one run by task on a grid of environment steps, ``[tasks, points]``.

    Each task's success is the trailing mean over the iterations that played it, interpolated
    linearly and extended as a constant beyond the first and last of them.

    Raises:
        ValueError: If the run never played one of the tasks.
    """
    curves = []
    for task in tasks:
        values = run.success.get(task, np.full(len(run.env_steps), np.nan))
        played = ~np.isnan(values)
        if not played.any():
            raise ValueError(
                f"{run.folder} never played {task} in {len(values)} iterations; train it longer, "
                "or leave it out"
            )
        smoothed = trailing_mean(values[played], window)
        curves.append(np.interp(grid, run.env_steps[played], smoothed))
    return np.stack(curves)


def _summary(
    label: str, runs: Sequence[FinishedRun], grid: Numbers, scores: Numbers, threshold: float
) -> LabelSummary:
    low, high = bootstrap_interval(scores) if len(runs) > 1 else (None, None)
    there = [np.flatnonzero(iqm(of_run) >= threshold - 1e-9) for of_run in scores]
    results = [run.evaluation for run in runs if run.evaluation is not None]
    evaluated = len(results) == len(runs)
    lengths = [steps for r in results if (steps := r.solved_steps) is not None]
    return LabelSummary(
        curve=Curve(label, len(runs), grid, _over_runs_and_tasks(scores), low, high),
        seeds=tuple(run.seed for run in runs),
        env_steps=tuple(int(run.env_steps[-1]) for run in runs),
        held_out=_mean_score([r.mean.value for r in results], most=1.0) if evaluated else None,
        solved_steps=_mean_score(lengths) if evaluated and len(lengths) == len(runs) else None,
        reached=tuple(float(grid[hits[0]]) for hits in there if len(hits)),
        shares=_shares(runs),
    )


def _mean_score(values: Sequence[float], most: float = float("inf")) -> Score:
    if len(values) == 1:
        return Score(values[0], None)
    mean, low, high = mean_interval(values)
    return Score(
        mean, (max(low, 0.0), min(high, most))
    )  # a t interval may exceed the bounds of success


def _shares(runs: Sequence[FinishedRun]) -> dict[str, float]:
    parts = dict.fromkeys(part for run in runs for part in run.seconds)
    sums = {part: sum(run.seconds.get(part, 0.0) for run in runs) for part in parts}
    known = sum(sums.values()) - sums.get("total", 0.0)
    total = max(sums.pop("total", known), known)
    if total - known > 0.005 * total:
        sums["other"] = total - known
    return {part: seconds / total for part, seconds in sums.items()} if total > 0 else {}
