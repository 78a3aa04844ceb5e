"""Who of a group is kept, by hand."""

import numpy as np
import pytest

from vla_rl import functional as F


def kept(found):
    return np.flatnonzero(found).tolist()


def test_keep_best_takes_the_first_of_equals():
    assert kept(F.keep_best(np.array([3.0, 1.0, 1.0, 1.0]), 2)) == [1, 2]
    assert kept(F.keep_best(np.array([3.0, 1.0]), 5)) == [0, 1]


SCORE = np.array([10.0, 2.0, 5.0, 3.0, 1.0, 4.0])


@pytest.mark.parametrize(
    ("success", "count", "expected"),
    [
        ("110110", 3, [1, 2, 4]),  # 1 failure (of 1.0), the first; 2 best successes
        ("111111", 3, [1, 3, 4]),  # nothing but successes: the best ones
        ("000000", 3, [0, 1, 2]),  # nothing but failures: the first ones
        ("000010", 3, [0, 1, 4]),  # 2.5 failures round to 2, and there is room for the success
        ("100000", 2, [0, 1]),  # 1.7 failures would fill both places
        ("111101", 2, [1, 4]),  # 0.3 failures round to none, yet one is kept
        ("000011", 4, [0, 1, 2, 4]),  # 2.7 failures round to 3
    ],
)
def test_keep_stratified(success, count, expected):
    solved = np.array([c == "1" for c in success])
    assert kept(F.keep_stratified(SCORE, solved, count)) == expected


@pytest.mark.parametrize(
    ("success", "count", "expected"),
    [
        ("110110", 2, [1, 2, 4, 5]),  # every failure and two of four successes
        ("111111", 2, [1, 4]),  # no failures
        ("000000", 2, [0, 1, 2, 3, 4, 5]),  # no successes
        ("000010", 3, [0, 1, 2, 3, 4, 5]),  # fewer successes than asked for
    ],
)
def test_keep_fast_successes(success, count, expected):
    solved = np.array([c == "1" for c in success])
    assert kept(F.keep_fast_successes(SCORE, solved, count)) == expected


def test_adaptive_size_by_hand():
    sizes, history = (8, 7, 6, 4), np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    found = [F.adaptive_size(m, history, sizes, 5) for m in (0.0, 0.3, 0.6, 0.9)]
    assert found == [8, 7, 6, 4]


def test_a_tie_with_a_quartile_counts_as_the_easier_start():
    sizes, history = (8, 7, 6, 4), np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    found = [F.adaptive_size(m, history, sizes, 5) for m in (0.25, 0.5, 0.75)]
    assert found == [7, 6, 4]
    # as many groups with small sizes have: every quartile is the same
    assert F.adaptive_size(0.5, np.full(9, 0.5), sizes, 5) == 4
    assert F.adaptive_size(0.4, np.full(9, 0.5), sizes, 5) == 8


def test_before_enough_groups_were_seen_every_start_counts_as_very_hard():
    assert F.adaptive_size(1.0, np.array([0.0, 0.5, 1.0]), (8, 7, 6, 4), 4) == 8
