"""Every module in envs/ keeps the contract, and what our own suites promise besides."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from vla_rl import plugins
from vla_rl.contract.suite import SUITE_CHECKS, TASK_CHECKS, Subject
from vla_rl.world import World

# Enough tasks of each suite to meet different kinds of objects.
CHECKED = {
    "point_reach": ("red", "blue"),
    "metaworld": ("drawer-open-v3", "push-v3", "door-open-new"),
    "franka_kitchen": ("kettle", "kitchen-burners", "slide-cabinet-red"),
}
SEEDS = 2
NAMES = [name for name in plugins.names("envs") if ":" not in name]  # gym:ID: see test_gym.py
MARKS = {name: () if name == "point_reach" else pytest.mark.sim for name in NAMES}
SUITES = [pytest.param(name, marks=MARKS[name]) for name in NAMES]
CASES = [
    pytest.param((name, task), marks=MARKS[name], id=f"{name}-{task}")
    for name in NAMES
    for task in CHECKED[name]
]


@pytest.fixture
def suite(request):
    return plugins.load("envs", request.param)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """A task whose environments are made once for all tests."""
    name, task_id = request.param
    yield from Subject(name, tasks=(task_id,), seeds=SEEDS).cases()


# --------------------------------------------------------------------------------- the contract


@pytest.mark.parametrize("check", SUITE_CHECKS)
@pytest.mark.parametrize("name", SUITES)
def test_a_suite_keeps_the_contract_without_a_remark(name, check):
    found = SUITE_CHECKS[check](Subject(name, tasks=CHECKED[name]))  # raises what is to be fixed
    assert found.advice == ""


@pytest.mark.parametrize("check", TASK_CHECKS)
def test_a_task_keeps_the_contract(case, check):
    TASK_CHECKS[check](case)  # raises what is to be fixed


# ------------------------------------------------------------------------------ the module's names


@pytest.mark.parametrize("suite", SUITES, indirect=True)
def test_instructions_are_plain_words(suite):
    for task in suite.tasks():
        assert task.instruction == task.instruction.strip().lower()


@pytest.mark.parametrize("suite", SUITES, indirect=True)
def test_buckets_and_protocols_refer_to_what_exists(suite):
    in_buckets = [task_id for ids in suite.BUCKETS.values() for task_id in ids]
    own = {task.id for task in suite.tasks()} - vars(suite).get("VARIANTS", {}).keys()
    assert sorted(in_buckets) == sorted(own)
    assert set(World(suite.tasks()[0].suite, ("all",), None).task_ids()) == own
    for name, protocol in suite.PROTOCOLS.items():
        assert name == protocol.name
        suite.spaces(replace(suite.Settings(), **protocol.settings))
        for task in suite.tasks():
            assert protocol.max_steps <= task.max_steps


@pytest.mark.parametrize("suite", SUITES, indirect=True)
def test_settings_are_explained(suite):
    body = ast.parse(inspect.getsource(suite.Settings)).body[0].body
    for field, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            assert isinstance(after, ast.Expr), f"{ast.unparse(field)} has no help below it"


@pytest.mark.parametrize("suite", SUITES, indirect=True)
def test_an_unknown_task_is_refused_with_a_near_name(suite):
    task = suite.tasks()[0]
    typo = replace(task, id=task.id[:-1] + "q")
    with pytest.raises(ValueError, match=f"{typo.id}.*did you mean.*{task.id}"):
        suite.make(typo, suite.Settings())
    with pytest.raises(ValueError, match="did you mean"):
        suite.expert(typo)


@pytest.mark.parametrize("suite", SUITES, indirect=True)
def test_bad_sizes_are_refused_early(suite):
    for size in (0, -64, 100_000):
        with pytest.raises(ValueError, match=str(size)):
            suite.spaces(suite.Settings(image_size=size))
    with pytest.raises(ValueError, match="max_steps 0"):
        suite.make(replace(suite.tasks()[0], max_steps=0), suite.Settings())


@pytest.mark.sim
def test_listing_tasks_loads_no_simulator():
    code = (
        "import sys; from vla_rl import plugins\n"
        f"for name in {NAMES}:\n"
        "    suite = plugins.load('envs', name)\n"
        "    suite.tasks(); suite.spaces(suite.Settings())\n"
        "assert 'mujoco' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --------------------------------------------------------------------------------- environments


def test_the_expert_solves_it_which_ends_it(case):
    env, expert = case.env, case.suite.expert(case.task)
    progress = [env.start(0)]
    outcome = None
    while outcome is None or not (outcome.terminated or outcome.truncated):
        action = expert(env)
        assert action.dtype == np.float32
        assert env.action_space.contains(action)
        outcome = env.advance(action)
        progress.append(outcome.progress)
    assert outcome.success
    assert outcome.terminated
    assert progress[0] < 0.5
    assert all(value < 1 for value in progress[:-1])


def test_after_the_end_only_a_start_is_accepted(case):
    short = case.with_horizon(1)
    env, still = short.env, np.zeros(short.env.spaces.action_dim, np.float32)
    env.start(0)
    assert env.advance(still).truncated
    with pytest.raises(RuntimeError, match="ended"):
        env.advance(still)
    env.start(0)
    env.advance(still)
    short.close()


def test_a_bad_action_is_refused_in_words(case):
    env, size = case.env, case.env.spaces.action_dim
    env.start(0)
    for bad in (np.full(size, np.nan, np.float32), np.zeros(size + 1, np.float32)):
        with pytest.raises(ValueError, match=f"{size} finite numbers"):
            env.advance(bad)


def test_gymnasium_is_told_of_success_and_progress(case):
    _, info = case.env.reset(seed=1)
    assert set(info) == {"success", "progress"}
