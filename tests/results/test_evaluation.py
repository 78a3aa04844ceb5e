from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from vla_rl.results.evaluation import EvalResult, TaskResult, compare, comparison_rows
from vla_rl.results.intervals import (
    Estimate,
    mean_interval,
    mean_over_tasks,
    mean_paired_difference,
    paired_difference,
    wilson,
)


def pairs(both: int, gained: int, lost: int, neither: int) -> tuple[list[bool], list[bool]]:
    before = [True] * both + [False] * gained + [True] * lost + [False] * neither
    after = [True] * both + [True] * gained + [False] * lost + [False] * neither
    return before, after


def test_wilson_by_hand() -> None:
    # z = 1.96, 0 of 10: [0, z^2 / (n + z^2)]
    z2 = 1.959964**2
    assert wilson(0, 10) == pytest.approx((0, z2 / (10 + z2)), abs=1e-6)
    # centre (8 + z^2 / 2) / (10 + z^2), half z / (10 + z^2) * sqrt(8 * 2 / 10 + z^2 / 4)
    centre, half = (8 + z2 / 2) / (10 + z2), math.sqrt(z2 * (1.6 + z2 / 4)) / (10 + z2)
    assert wilson(8, 10) == pytest.approx((centre - half, centre + half), abs=1e-6)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998


@pytest.mark.parametrize(("successes", "episodes"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_nonsense(successes: int, episodes: int) -> None:
    with pytest.raises(ValueError, match=f"got {successes} of {episodes}"):
        wilson(successes, episodes)


def test_paired_difference_agrees_with_the_published_example() -> None:
    # Airway hyper-responsiveness before and after transplantation, Bentur et al. 2009; interval in
    # Fagerland, Lydersen and Laake, Statistics in Medicine 2014: -0.507 to -0.026.
    found = paired_difference(*pairs(both=1, gained=1, lost=7, neither=12))
    assert found.difference == pytest.approx(-6 / 21)
    assert (found.low, found.high) == pytest.approx((-0.507, -0.026), abs=5e-4)
    # exact McNemar: 2 * (C(8, 0) + C(8, 1)) / 2^8
    assert found.p_value == pytest.approx(18 / 256)


def test_paired_difference_without_correlation_by_hand() -> None:
    # Nothing before, all after, n = 10: no correlation can be estimated, and the distances are
    # those of two Wilson intervals of width w = z^2 / (10 + z^2).
    found = paired_difference([False] * 10, [True] * 10)
    w = 1.959964**2 / (10 + 1.959964**2)
    assert found.low == pytest.approx(1 - math.sqrt(2) * w, abs=1e-6)
    assert found.high == pytest.approx(1)
    assert found.p_value == pytest.approx(2 / 2**10)


def test_nothing_changed() -> None:
    found = paired_difference([True, False, True], [True, False, True])
    assert (found.difference, found.p_value) == (0, 1)
    assert found.low == pytest.approx(-found.high)
    assert found.low < 0


def test_swapping_before_and_after_mirrors_the_interval() -> None:
    before, after = pairs(5, 9, 2, 4)
    there, back = paired_difference(before, after), paired_difference(after, before)
    assert (back.difference, back.low, back.high) == pytest.approx(
        (-there.difference, -there.high, -there.low)
    )
    assert back.p_value == there.p_value


def test_pairs_must_match() -> None:
    with pytest.raises(ValueError, match=r"shapes \(2,\) before and \(3,\) after"):
        paired_difference([True, False], [True, False, True])
    with pytest.raises(ValueError, match="at least 1"):
        paired_difference([], [])
    with pytest.raises(ValueError, match=r"tasks differ: before \['a'\], after \['b'\]"):
        mean_paired_difference({"a": [True]}, {"b": [True]})


def test_mean_over_tasks_by_hand() -> None:
    # distances 0.3 and 0.4 below, 0.05 and 0.12 above: 0.5 / 2 and 0.13 / 2
    found = mean_over_tasks([Estimate(0.5, 0.2, 0.55), Estimate(0.7, 0.3, 0.82)])
    assert found == pytest.approx((0.6, 0.35, 0.665))
    with pytest.raises(ValueError, match="no tasks"):
        mean_over_tasks([])


def test_mean_paired_difference_weighs_tasks_equally_and_pools_the_test() -> None:
    small, large = pairs(0, 1, 0, 1), pairs(0, 0, 2, 6)
    before, after = ({"s": small[i], "l": large[i]} for i in range(2))
    found = mean_paired_difference(before, after)
    assert found.difference == pytest.approx((1 / 2 - 2 / 8) / 2)
    assert found.p_value == pytest.approx(1.0)  # 1 gained, 2 lost
    tasks = [paired_difference(*small), paired_difference(*large)]
    distance = math.hypot(*(t.difference - t.low for t in tasks)) / 2
    assert found.low == pytest.approx(found.difference - distance)


def test_the_interval_of_a_mean_difference_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    before_rate, after_rate = np.array([0.2, 0.5, 0.9]), np.array([0.5, 0.5, 0.95])
    covered = 0
    for _ in range(300):
        luck = rng.random((3, 20, 2))
        luck[..., 1] = np.where(rng.random((3, 20)) < 0.5, luck[..., 0], luck[..., 1])
        before = {str(k): luck[k, :, 0] < before_rate[k] for k in range(3)}
        after = {str(k): luck[k, :, 1] < after_rate[k] for k in range(3)}
        found = mean_paired_difference(before, after)
        covered += found.low <= (after_rate - before_rate).mean() <= found.high
    assert 0.92 <= covered / 300 <= 1


def test_mean_interval_by_hand() -> None:
    # mean 0.6, standard deviation 0.1, t(2) = 4.3027
    found = mean_interval([0.5, 0.6, 0.7])
    half = 4.3026527 * 0.1 / math.sqrt(3)
    assert found == pytest.approx((0.6, 0.6 - half, 0.6 + half))
    with pytest.raises(ValueError, match="at least 2 of them, got 1"):
        mean_interval([0.5])


# ---------------------------------------------------------------------------- evaluation results


def result(protocol: str = "custom:toys", **success: str) -> EvalResult:
    """A result from strings of 0 and 1."""
    return EvalResult(
        protocol_id=protocol,
        suite="toys",
        horizon=50,
        settings={"cameras": ["front"], "image_size": 64},
        renderer="egl",
        tasks={
            task: TaskResult(
                seeds=tuple(range(len(outcomes))),
                success=tuple(o == "1" for o in outcomes),
                steps=tuple(10 + i for i in range(len(outcomes))),
            )
            for task, outcomes in success.items()
        },
        buckets={"easy": ("push", "pull"), "hard": ("throw", "juggle"), "none": ("fly",)},
        policy="runs/demo/policy",
    )


def test_an_evaluation_survives_json() -> None:
    made = result(push="0110", throw="1111")
    text = made.to_json()
    assert EvalResult.from_json(text) == made
    data = json.loads(text)
    assert data["tasks"]["push"]["successes"] == 2
    assert data["tasks"]["push"]["episodes"] == 4
    assert data["tasks"]["push"]["wilson"] == pytest.approx(wilson(2, 4))
    assert data["mean"] == 0.75
    assert data["bucket_means"] == {"easy": 0.5, "hard": 1.0}


def test_means() -> None:
    made = result(push="0110", pull="0000", throw="1111")
    assert made.mean.value == pytest.approx(0.5)
    assert made.mean.low < 0.5 < made.mean.high
    # solved: push starts 1 and 2 (11 and 12 steps), throw all four; pull none
    assert made.tasks["push"].solved_steps == 11.5
    assert made.tasks["throw"].solved_steps == 11.5
    assert made.tasks["pull"].solved_steps is None
    assert made.solved_steps is None
    assert {name: e.value for name, e in made.bucket_means().items()} == {"easy": 0.25, "hard": 1.0}


def sequence(*completed: str) -> TaskResult:
    """A result of three parts from strings of their first letters, one for each episode."""
    names = {"k": "kettle", "m": "microwave", "l": "light"}
    return TaskResult(
        seeds=tuple(range(len(completed))),
        success=tuple(len(parts) == 3 for parts in completed),
        steps=(50,) * len(completed),
        subgoals=tuple(names.values()),
        completed=tuple(tuple(names[part] for part in parts) for parts in completed),
    )


def test_a_sequence_is_told_by_its_parts() -> None:
    told = sequence("k", "kml", "", "kl")
    assert told.shares == pytest.approx((1 / 3, 1, 0, 2 / 3))
    assert told.share == pytest.approx((0.5, *wilson(2, 4)))
    assert {name: sum(values) / 4 for name, values in told.measures().items()} == {
        "share of 3 completed": 0.5,
        "at least 1 of 3": 0.75,
        "at least 2 of 3": 0.5,
        "all 3": 0.25,
        "kettle": 0.75,
        "microwave": 0.25,
        "light": 0.5,
    }


def test_an_evaluation_of_a_sequence_survives_json_and_is_compared_by_shares() -> None:
    before = replace(result(push="0110"), tasks={"both": sequence("k", "kml", "", "kl")})
    after = replace(before, tasks={"both": sequence("kl", "kml", "k", "kml")})
    assert before.has_sequences
    assert not result(push="0110").has_sequences
    assert EvalResult.from_json(before.to_json()) == before
    assert json.loads(before.to_json())["tasks"]["both"]["measures"]["all 3"][0] == 0.25
    assert before.mean.value == pytest.approx(0.5)
    change = compare(before, after)
    assert change.tasks["both"].difference == pytest.approx(0.25)
    assert change.tasks["both"].p_value == pytest.approx(0.25)  # three of three became better
    rows = comparison_rows("both", before.tasks["both"], after.tasks["both"])
    assert [row.name for row in rows][:2] == ["both: share of 3 completed", "both: at least 1 of 3"]
    assert [row.kind for row in rows] == ["task", *["part"] * 6]
    assert rows[3].change.difference == pytest.approx(0.25)  # all three: one of four, then two


def test_a_sequence_needs_what_each_episode_completed() -> None:
    with pytest.raises(ValueError, match="of all 2 episodes, got 1"):
        replace(sequence("k", "km"), completed=(("kettle",),))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tasks": {}}', '{"tasks": {"a": {}}}'])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an evaluation result"):
        EvalResult.from_json(text)


def test_a_result_needs_tasks_and_one_outcome_for_each_start() -> None:
    with pytest.raises(ValueError, match="at least one task"):
        result()
    with pytest.raises(ValueError, match="1 outcomes and 2 lengths for 2 seeds"):
        TaskResult((1, 2), (True,), (1, 1))
    with pytest.raises(ValueError, match="a seed twice"):
        TaskResult((1, 1), (True, False), (1, 1))


def test_compare_pairs_by_seed_whatever_the_order() -> None:
    before = result(push="0011", throw="0000")
    after = result(push="0111", throw="0001")
    shuffled = EvalResult(**{**vars(after), "tasks": {
        "throw": TaskResult((3, 2, 1, 0), (True, False, False, False), (1,) * 4),
        "push": TaskResult((1, 0, 3, 2), (True, False, True, True), (1,) * 4),
    }})  # fmt: skip
    found = compare(before, after)
    assert compare(before, shuffled) == found
    assert found.tasks["push"] == paired_difference([0, 0, 1, 1], [0, 1, 1, 1])
    assert found.mean.difference == pytest.approx(0.25)
    assert set(found.buckets) == {"easy", "hard"}
    assert found.buckets["hard"].difference == pytest.approx(0.25)


def test_compare_refuses_other_protocols_tasks_and_starts() -> None:
    before = result(push="01")
    with pytest.raises(ValueError, match="before is 'custom:toys', after is 'official:toys'"):
        compare(before, result("official:toys", push="01"))
    with pytest.raises(ValueError, match=r"tasks differ: \['push'\] before, \['pull'\] after"):
        compare(before, result(pull="01"))
    with pytest.raises(ValueError, match="the starts of push differ"):
        compare(before, result(push="011"))
