"""Confidence intervals of shares, means and their differences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A number and its confidence interval."""

    value: float
    low: float
    high: float


class PairedDifference(NamedTuple):
    """Success after minus success before on the same starts.

    Attributes:
        difference: In [-1, 1]; positive if success increased.
        low: Lower end of the confidence interval.
        high: Upper end of the confidence interval.
        p_value: Two-sided p-value of no difference (exact sign test over the starts).
    """

    difference: float
    low: float
    high: float
    p_value: float


def wilson(successes: float, episodes: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a mean of numbers in [0, 1]: a success rate, or a mean share.

    Args:
        successes: Sum of the numbers; need not be an integer.
        episodes: How many numbers there are.
        confidence: Confidence level.

    Raises:
        ValueError: If there are no episodes, or more successes than episodes.
    """
    if not 0 <= successes <= episodes or episodes < 1:
        raise ValueError(
            f"need 0 <= successes <= episodes and an episode, got {successes} of {episodes}"
        )
    z2 = float(scipy.stats.norm.ppf((1 + confidence) / 2)) ** 2
    middle = (successes + z2 / 2) / (episodes + z2)
    spread = successes * (episodes - successes) / episodes + z2 / 4
    half = math.sqrt(z2 * spread) / (episodes + z2)
    # Exactly 0 and 1 at the ends, whatever rounding says.
    low = middle - half if successes > 0 else 0.0
    high = middle + half if successes < episodes else 1.0
    return low, high


def estimate(outcomes: ArrayLike) -> Estimate:
    """The mean of ``[n]`` numbers in [0, 1] with Wilson's interval."""
    values = np.asarray(outcomes, float)
    return Estimate(float(values.mean()), *wilson(float(values.sum()), len(values)))


def paired_difference(
    before: ArrayLike, after: ArrayLike, confidence: float = CONFIDENCE
) -> PairedDifference:
    """Difference of two means on the same starts.

    Args:
        before: ``[n]`` success (bool) or completed share in [0, 1] of each start.
        after: ``[n]`` of the same starts in the same order.
        confidence: Confidence level.

    Raises:
        ValueError: If the lengths differ or are zero.
    """
    pairs = _Pairs.of(before, after)
    low, high = pairs.interval(confidence)
    return PairedDifference(pairs.difference, low, high, _sign_test(pairs.gained, pairs.lost))


def mean_paired_difference(
    before: Mapping[str, ArrayLike], after: Mapping[str, ArrayLike], confidence: float = CONFIDENCE
) -> PairedDifference:
    """Unweighted mean over tasks of :func:`paired_difference`.

    The p-value is that of the exact sign test over the starts of all tasks.

    Args:
        before: ``[n]`` success or completed share by task; n may differ between tasks.
        after: The same tasks and starts.
        confidence: Confidence level.

    Raises:
        ValueError: If the tasks differ, or the lengths of a task.
    """
    if set(before) != set(after) or not before:
        raise ValueError(f"tasks differ: before {sorted(before)}, after {sorted(after)}")
    tables = [_Pairs.of(before[task], after[task]) for task in before]
    mean = mean_over_tasks(Estimate(t.difference, *t.interval(confidence)) for t in tables)
    gained, lost = sum(t.gained for t in tables), sum(t.lost for t in tables)
    return PairedDifference(*mean, _sign_test(gained, lost))


def mean_over_tasks(estimates: Iterable[Estimate]) -> Estimate:
    """Mean of independent estimates, with their intervals combined by MOVER.

    Raises:
        ValueError: If there is none.
    """
    values = np.array(list(estimates))
    if len(values) == 0:
        raise ValueError("cannot take the mean over no tasks")
    value, low, high = values.T
    mean = float(value.mean())
    return Estimate(
        mean,
        mean - float(np.linalg.norm(value - low)) / len(values),
        mean + float(np.linalg.norm(high - value)) / len(values),
    )


def mean_interval(per_seed: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Mean over training seeds with Student's t interval.

    Raises:
        ValueError: If there are fewer than two values.
    """
    if len(per_seed) < 2:
        raise ValueError(f"an interval over seeds needs at least 2 of them, got {len(per_seed)}")
    mean, error = float(np.mean(per_seed)), float(scipy.stats.sem(per_seed))
    half = error * float(scipy.stats.t.ppf((1 + confidence) / 2, len(per_seed) - 1))
    return Estimate(mean, mean - half, mean + half)


@dataclass(frozen=True)
class _Pairs:
    """Outcomes in [0, 1] of two trials of the same starts, each ``[n]``."""

    before: NDArray[np.float64]
    after: NDArray[np.float64]

    @classmethod
    def of(cls, before: ArrayLike, after: ArrayLike) -> _Pairs:
        first, second = np.asarray(before, float), np.asarray(after, float)
        if first.shape != second.shape or first.ndim != 1 or first.size == 0:
            raise ValueError(
                "paired outcomes must be two lists of equal length, at least 1; got shapes "
                f"{first.shape} before and {second.shape} after"
            )
        return cls(first, second)

    @property
    def gained(self) -> int:
        return int((self.after > self.before).sum())

    @property
    def lost(self) -> int:
        return int((self.after < self.before).sum())

    @property
    def difference(self) -> float:
        return float(self.after.mean() - self.before.mean())

    def interval(self, confidence: float) -> tuple[float, float]:
        """Newcombe's method 10."""
        n = len(self.before)
        after, before = float(self.after.mean()), float(self.before.mean())
        low_after, high_after = wilson(float(self.after.sum()), n, confidence)
        low_before, high_before = wilson(float(self.before.sum()), n, confidence)
        phi = self._correlation()
        return (
            self.difference - _distance(after - low_after, high_before - before, phi),
            self.difference + _distance(high_after - after, before - low_before, phi),
        )

    def _correlation(self) -> float:
        """Correlation of the outcomes, shrunk by Newcombe's continuity correction if positive."""
        n, ones, others = len(self.before), self.after.sum(), self.before.sum()
        margins = float(ones * (n - ones) * others * (n - others))
        if margins == 0:
            return 0.0
        # For a 2x2 table this is "both times neither minus gained times lost".
        product = float(n * (self.before * self.after).sum() - ones * others)
        if product > 0:
            product = max(product - n / 2, 0.0)
        return product / math.sqrt(margins)


def _distance(one: float, other: float, correlation: float) -> float:
    return math.sqrt(max(0.0, one**2 - 2 * correlation * one * other + other**2))


def _sign_test(gained: int, lost: int) -> float:
    if gained + lost == 0:
        return 1.0
    return float(scipy.stats.binomtest(gained, gained + lost).pvalue)
