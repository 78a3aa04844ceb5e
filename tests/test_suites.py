"""The contract of a suite, checked on every module in envs/."""

from __future__ import annotations

import ast
import inspect
import json
import pickle
import subprocess
import sys
import warnings
from dataclasses import FrozenInstanceError, asdict, fields, replace

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from vla_rl import plugins
from vla_rl.types import EpisodeSpec

# Enough tasks of each suite to meet different kinds of objects.
CHECKED = {
    "point_reach": ("red", "blue"),
    "metaworld": ("drawer-open-v3", "push-v3"),
    "franka_kitchen": ("microwave", "kettle", "kitchen-burners"),
}
NAMES = [name for name in plugins.names("envs") if ":" not in name]  # gym:ID: see test_gym.py
SUITES = [
    pytest.param(name, marks=pytest.mark.sim) if name != "point_reach" else name for name in NAMES
]
CASES = [
    pytest.param(name, task, marks=() if name == "point_reach" else pytest.mark.sim)
    for name in NAMES
    for task in CHECKED[name]
]


def task_of(suite, task_id):
    return next(task for task in suite.tasks() if task.id == task_id)


@pytest.fixture
def suite(request):
    return plugins.load("envs", request.param)


@pytest.fixture(scope="module")
def made():
    """Two environments for every case, made once."""
    pairs = {}

    def get(name, task_id):
        if (name, task_id) not in pairs:
            suite = plugins.load("envs", name)
            task = task_of(suite, task_id)
            pairs[name, task_id] = tuple(suite.make(task, suite.Settings()) for _ in range(2))
        return pairs[name, task_id]

    yield get
    for pair in pairs.values():
        for env in pair:
            env.close()


def play(env, seed, steps):
    """Random actions from a seed; stops at the time limit."""
    actions = np.random.default_rng(seed).uniform(-1, 1, (steps, env.spaces.action_dim))
    outcomes = []
    for action in actions.astype(np.float32):
        outcomes.append(env.advance(action))
        if outcomes[-1].truncated:
            break
    return outcomes


def looks_equal(a, b):
    return np.array_equal(a.images, b.images) and np.array_equal(a.state, b.state)


# ------------------------------------------------------------------------------ the module's names


@pytest.mark.parametrize("suite", SUITES, indirect=True)
def test_tasks_are_named_and_told_apart_by_their_instruction(suite):
    tasks = suite.tasks()
    assert len({task.id for task in tasks}) == len(tasks)
    assert len({task.instruction for task in tasks}) == len(tasks)
    for task in tasks:
        assert task.suite == suite.__name__.removeprefix("vla_rl.envs.")
        assert task.max_steps >= 1
        assert task.instruction == task.instruction.strip().lower()


@pytest.mark.parametrize("suite", SUITES, indirect=True)
def test_buckets_and_protocols_refer_to_what_exists(suite):
    in_buckets = [task_id for ids in suite.BUCKETS.values() for task_id in ids]
    assert sorted(in_buckets) == sorted(task.id for task in suite.tasks())
    for name, protocol in suite.PROTOCOLS.items():
        assert name == protocol.name
        suite.spaces(replace(suite.Settings(), **protocol.settings))
        for task in suite.tasks():
            assert protocol.max_steps <= task.max_steps


@pytest.mark.parametrize("suite", SUITES, indirect=True)
def test_settings_are_frozen_plain_and_explained(suite):
    settings = suite.Settings()
    first = fields(settings)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(settings, first, None)
    text = json.dumps(asdict(settings))
    assert json.loads(text).keys() == asdict(settings).keys()
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


@pytest.mark.parametrize("name", SUITES)
def test_a_simulator_process_stays_free_of_torch(name):
    code = (
        "import sys; from vla_rl import plugins\n"
        f"suite = plugins.load('envs', {name!r})\n"
        "suite.spaces(suite.Settings())\n"
        "assert 'mujoco' not in sys.modules, 'listing tasks must not load the simulator'\n"
        "task = suite.tasks()[0]; env = suite.make(task, suite.Settings())\n"
        "env.start(1); env.advance(suite.expert(task)(env)); env.observe()\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr, "left noise at exit"


# --------------------------------------------------------------------------------- environments


@pytest.mark.parametrize(("name", "task_id"), CASES)
def test_gymnasium_and_stable_baselines_accept_it(made, name, task_id):
    env, _ = made(name, task_id)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(env, skip_render_check=True)
        sb3_check_env(env)


@pytest.mark.parametrize(("name", "task_id"), CASES)
def test_the_seed_determines_the_start(made, name, task_id):
    env, other = made(name, task_id)
    progress = env.start(3)
    first = env.observe()
    future = play(env, 0, 10)
    env.start(4)
    assert not looks_equal(env.observe(), first)
    play(env, 1, 7)
    for again in (env, other):
        assert again.start(3) == progress
        assert looks_equal(again.observe(), first)
        assert play(again, 0, 10) == future


@pytest.mark.parametrize(("name", "task_id"), CASES)
def test_snapshots_are_exact(made, name, task_id):
    env, other = made(name, task_id)
    env.start(5)
    play(env, 2, 6)
    saved, seen = env.snapshot(), env.observe()
    future = play(env, 3, 8)
    last = env.observe()
    other.start(9)
    for again in (env, other):
        again.restore(saved)
        assert looks_equal(again.observe(), seen)
        assert play(again, 3, 8) == future
        assert looks_equal(again.observe(), last)


@pytest.mark.parametrize(("name", "task_id"), CASES)
def test_observations_fit_the_declared_spaces(made, name, task_id):
    env, _ = made(name, task_id)
    env.start(0)
    observation = env.observe()
    spaces, size = env.spaces, env.spaces.image_size
    assert observation.images.shape == (len(spaces.views), size, size, 3)
    assert observation.images.dtype == np.uint8
    assert observation.state.shape == (spaces.state_dim,)
    assert observation.state.dtype == np.float32
    assert env.action_space.shape == (spaces.action_dim,)
    seen, info = env.reset(seed=1)
    assert env.observation_space.contains(seen)
    assert set(info) == {"success", "progress"}


@pytest.mark.parametrize(("name", "task_id"), CASES)
def test_the_expert_solves_it_and_progress_tells(made, name, task_id):
    env, _ = made(name, task_id)
    expert = plugins.load("envs", name).expert(env.task)
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
    assert not outcome.truncated
    assert progress[0] < 0.5
    assert progress[-1] == 1.0
    assert all(0 <= value < 1 for value in progress[:-1])


@pytest.mark.parametrize(("name", "task_id"), CASES)
def test_the_clock_truncates(name, task_id):
    suite = plugins.load("envs", name)
    task = replace(task_of(suite, task_id), max_steps=3)
    env = suite.make(task, suite.Settings())
    env.start(0)
    still = np.zeros(env.spaces.action_dim, np.float32)
    outcomes = [env.advance(still) for _ in range(3)]
    assert [outcome.truncated for outcome in outcomes] == [False, False, True]
    assert not any(outcome.terminated for outcome in outcomes)
    with pytest.raises(RuntimeError, match="ended"):
        env.advance(still)
    env.start(0)
    env.advance(still)
    env.close()


@pytest.mark.parametrize(("name", "task_id"), CASES)
def test_actions_are_clipped_and_checked(made, name, task_id):
    env, _ = made(name, task_id)
    size = env.spaces.action_dim
    env.start(0)
    saved = env.snapshot()
    within = env.advance(np.ones(size, np.float32))
    env.restore(saved)
    assert env.advance(np.full(size, 7.0, np.float32)) == within
    for bad in (np.full(size, np.nan, np.float32), np.zeros(size + 1, np.float32)):
        with pytest.raises(ValueError, match=f"{size} finite numbers"):
            env.advance(bad)


@pytest.mark.parametrize(("name", "task_id"), CASES)
def test_specs_travel_between_processes(name, task_id):
    spec = EpisodeSpec(task_of(plugins.load("envs", name), task_id), 12)
    assert pickle.loads(pickle.dumps(spec)) == spec
