"""The contract of every curriculum, and what the frontier one prefers."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from tests.helpers import WORLD, make_policy, play_groups
from vla_rl import plugins
from vla_rl.curricula import frontier, uniform
from vla_rl.types import SEED_RANGES, Trajectory

TASKS = WORLD.resolve().tasks


def outcome(template: Trajectory, task: int, rate: float):
    spec = replace(template.spec, task=TASKS[task])
    return [replace(template, spec=spec, success=i < rate * 10) for i in range(10)]


@pytest.fixture(scope="module")
def template():
    return play_groups(make_policy(), 3, 1)[0][0]


@pytest.mark.parametrize("name", plugins.names("curricula"))
def test_contract(name, template):
    make = plugins.load("curricula", name).Curriculum
    first, second = make(TASKS, 3), make(TASKS, 3)
    first.sample(5)
    first.update([outcome(template, 0, 0.9)])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert first.sample(20) == second.sample(20)
    drawn = make(TASKS, 0).sample(300)
    assert {spec.task.id for spec in drawn} == {task.id for task in TASKS}
    assert len({spec.seed for spec in drawn}) == 300  # no start comes twice
    assert all(spec.seed in SEED_RANGES["train"] for spec in drawn)
    others = make(TASKS, 1).sample(300)
    assert not {spec.seed for spec in drawn} & {spec.seed for spec in others}


def test_uniform_is_uniform():
    counts = Counter(spec.task.id for spec in uniform.Curriculum(TASKS).sample(30))
    assert set(counts.values()) == {10}


def test_frontier_prefers_what_is_half_mastered(template):
    curriculum = frontier.Curriculum(TASKS, momentum=0.0)
    curriculum.update([outcome(template, task, rate) for task, rate in enumerate((0.0, 0.5, 1.0))])
    counts = Counter(spec.task.id for spec in curriculum.sample(130))
    # weights 0.15, 1.15, 0.15
    assert counts[TASKS[1].id] == pytest.approx(130 * 1.15 / 1.45, abs=1)
    assert counts[TASKS[0].id] == pytest.approx(130 * 0.15 / 1.45, abs=1)
