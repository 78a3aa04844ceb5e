"""Interquartile means, their intervals and common steps, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.results.helpers import make_run, run_of
from vla_rl.results import aggregate
from vla_rl.results.aggregate import align, bootstrap_interval, common_grid, iqm, trailing_mean
from vla_rl.results.run_folders import group, read_run


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5], 5),
        ([1, 2, 6], 3),  # a quarter of three is no value
        ([100, 2, 4, 0], 3),
        ([0, 1, 2, 3, 4, 5, 6, 100], 3.5),  # 2, 3, 4, 5
        ([9, 0, 1, 1, 2, 3, 7, 8, 9], 4.2),  # nine without two at each end: 1, 2, 3, 7, 8
    ],
)
def test_iqm_by_hand(values: list[float], expected: float) -> None:
    assert iqm(values) == pytest.approx(expected)


def test_iqm_keeps_the_other_axes() -> None:
    assert iqm([[0, 8], [1, 1], [3, 3], [50, 5]]).tolist() == [2, 4]
    with pytest.raises(ValueError, match="no values"):
        iqm([])


def test_the_bootstrap_of_constant_data_is_that_constant() -> None:
    low, high = bootstrap_interval(np.full((4, 3, 5), 0.7))
    assert low == pytest.approx(np.full(5, 0.7))
    assert high == pytest.approx(np.full(5, 0.7))


def test_the_bootstrap_is_stratified_by_task() -> None:
    # Runs agree on every task, so only draws that mix up the tasks could vary.
    scores = np.tile(np.array([0.0, 0.2, 0.9, 1.0]), (3, 1))
    low, high = bootstrap_interval(scores)
    assert low == high == pytest.approx(iqm(scores.ravel()))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    truth = np.array([0.3, 0.5, 0.7])  # symmetric, so the IQM over them is 0.5
    hits = 0
    for _ in range(100):
        low, high = bootstrap_interval(truth + 0.1 * rng.standard_normal((10, 3)), resamples=200)
        hits += low <= 0.5 <= high
    assert 85 <= hits <= 100


def test_the_interval_is_the_same_every_time_and_needs_two_runs() -> None:
    scores = np.random.default_rng(1).random((3, 2, 4))
    first, second = bootstrap_interval(scores), bootstrap_interval(scores)
    assert np.array_equal(first, second)
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap_interval(scores[:1])


def test_trailing_mean_by_hand() -> None:
    assert trailing_mean(np.array([1.0, 3.0, 5.0, 1.0]), 3).tolist() == [1, 2, 3, 3]
    assert trailing_mean(np.array([1.0, 3.0]), 1).tolist() == [1, 3]
    with pytest.raises(ValueError, match="window must be at least 1"):
        trailing_mean(np.array([1.0]), 0)


def test_curves_are_interpolated_on_common_steps() -> None:
    short = run_of([100, 200, 300], push=[0.0, 0.4, 0.8], throw=[np.nan, 0.2, 1.0])
    long = run_of([50, 500], push=[0.0, 0.9], throw=[0.0, 0.0])
    grid = common_grid([short, long], points=5)
    assert grid.tolist() == [100, 150, 200, 250, 300]
    curves = align(short, ["push", "throw"], grid, window=1)
    assert curves == pytest.approx(np.array([[0.0, 0.2, 0.4, 0.6, 0.8], [0.2, 0.2, 0.2, 0.6, 1.0]]))
    smoothed = align(short, ["push"], grid, window=2)
    assert smoothed == pytest.approx(np.array([[0.0, 0.1, 0.2, 0.4, 0.6]]))
    assert align(long, ["push"], grid, window=1)[0, 0] == pytest.approx(0.1)
    with pytest.raises(ValueError, match="never played lift in 3 iterations; train it longer"):
        align(short, ["lift"], grid, window=1)


def test_a_run_that_ends_before_another_begins_is_still_drawn() -> None:
    grid = common_grid([run_of([100], push=[0.5]), run_of([300, 400], push=[0.1, 0.2])], points=3)
    assert grid.tolist() == [100, 100, 100]


def test_steps_to_the_threshold_count_the_runs_that_reached_it() -> None:
    runs = [
        run_of([0, 99], push=[0.0, 0.99]),  # the grid has a point at every step
        run_of([0, 99], push=[0.0, 0.495]),
        run_of([0, 99], push=[0.0, 0.1]),
    ]
    (summary,) = aggregate.summarise({"loop": runs}, window=1, threshold=0.4)
    assert summary.reached == (40.0, 80.0)
    assert summary.steps_to_threshold == 60
    (never,) = aggregate.summarise({"loop": runs}, window=1, threshold=1.0)
    assert never.steps_to_threshold is None
    with pytest.raises(ValueError, match="threshold"):
        aggregate.summarise({"loop": runs}, window=1, threshold=0.0)


def test_one_world_of_all_tasks(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / str(s), s, world__tasks=["all"]) for s in (0, 1)]
    (summary,) = aggregate.summarise(group([read_run(f) for f in folders]), 1, 0.9)
    assert summary.final.value == pytest.approx((0.5 + 0.55 + 1 + 1 - 0.5 - 1) / 2)
