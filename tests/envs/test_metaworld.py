"""The Meta-World suite: all fifty tasks, against stock Meta-World; see also test_variants.py."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from vla_rl.envs import metaworld
from vla_rl.envs.metaworld import Settings

pytestmark = pytest.mark.sim

TASKS = {task.id: task for task in metaworld.tasks() if task.id not in metaworld.VARIANTS}
# With this scope all tests of a task run together, so few simulators (100 MB each) are alive.
each_task = pytest.mark.parametrize("task_id", TASKS, scope="module")
few = lru_cache(maxsize=6)


@few
def made(task_id):
    return metaworld.make(TASKS[task_id], Settings())


@few
def twin(task_id):
    return metaworld.make(TASKS[task_id], Settings(cameras=()))


def stock(task_id, seed):
    """Unmodified Meta-World at the start of a seed."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    env = ALL_V3_ENVIRONMENTS[task_id]()
    env._set_task_called = True
    env._freeze_rand_vec, env.seeded_rand_vec = False, True
    env._partially_observable = False
    del env.sawyer_observation_space
    env.seed(seed)
    env.reset()
    return env


def some_actions(count, seed=0):
    # Held for a few steps, so that the hand gets somewhere and touches things.
    rng = np.random.default_rng(seed)
    return np.repeat(rng.uniform(-1, 1, (count // 5, 4)), 5, axis=0).astype(np.float32)


# ------------------------------------------------------------------------------ against stock


@each_task
def test_steps_are_bit_identical_to_stock(task_id):
    plain, env = stock(task_id, 7), made(task_id)
    env.start(3)
    env.advance(np.ones(4, np.float32))
    env.start(7)
    expert = metaworld.expert(TASKS[task_id])
    for step, random_action in enumerate(some_actions(70)):
        action = expert(env) if step < 50 else random_action
        observed, reward, _, _, info = plain.step(action)
        outcome = env.advance(action)
        assert outcome.reward == float(reward), step
        assert outcome.success == bool(info["success"]), step
        np.testing.assert_array_equal(env._sawyer.data.qpos, plain.data.qpos)
        np.testing.assert_array_equal(env._sawyer.data.qvel, plain.data.qvel)
        now = np.r_[0:18, 36:39]
        np.testing.assert_allclose(env.privileged[now], observed[now], rtol=0, atol=1e-12)
    plain.close()


def test_the_fast_tolerance_equals_the_stock_one():
    from metaworld.utils import reward_utils

    from vla_rl.envs._metaworld.fast import _tolerance

    rng = np.random.default_rng(0)
    for _ in range(5000):
        x, margin = rng.normal(), abs(rng.normal()) * rng.integers(2)
        bounds = tuple(sorted(rng.normal(size=2)))
        for value in (float(x), np.float64(x), np.float32(x)):
            expected = reward_utils.tolerance(value, bounds, margin, "long_tail")
            result = _tolerance(value, bounds, margin, "long_tail")
            assert result == expected
            assert type(result) is type(expected)


def test_the_fast_rotation_equals_scipy():
    from scipy.spatial.transform import Rotation

    from vla_rl.envs._metaworld.fast import _Rotation

    for rotation in Rotation.random(500, random_state=0):
        matrix = rotation.as_matrix()
        np.testing.assert_allclose(
            _Rotation.from_matrix(matrix).as_quat(),
            Rotation.from_matrix(matrix).as_quat(),
            rtol=0,
            atol=1e-14,
        )


# ------------------------------------------------------------------------ starts and snapshots


@each_task
def test_snapshots_are_exact_in_the_middle_of_an_episode(task_id):
    env, other = made(task_id), twin(task_id)
    expert = metaworld.expert(TASKS[task_id])
    env.start(11)
    for _ in range(25):
        env.advance(expert(env))
    saved = env.snapshot()
    actions = some_actions(20, seed=1)

    def future(copy):
        seen = []
        for action in actions:
            outcome = copy.advance(action)
            seen.append((outcome, copy._sawyer.data.qpos.tobytes(), copy.privileged.tobytes()))
        return seen

    expected = future(env)
    env.restore(saved)
    assert future(env) == expected
    other.start(2)
    other.advance(actions[0])
    other.restore(saved)
    assert future(other) == expected


@each_task
def test_starts_forget_what_happened_before(task_id):
    env, other = made(task_id), twin(task_id)
    progress = env.start(21)
    observed, qpos = env.privileged.copy(), env._sawyer.data.qpos.copy()
    bodies = env._sawyer.model.body_pos.copy()
    env.start(22)
    for action in some_actions(10):
        env.advance(action)
    for again in (env, other):
        assert again.start(21) == progress
        np.testing.assert_array_equal(again.privileged, observed)
        np.testing.assert_array_equal(again._sawyer.data.qpos, qpos)
        np.testing.assert_array_equal(again._sawyer.model.body_pos, bodies)


@each_task
def test_episodes_move_nothing_in_the_model_but_bodies_and_sites(task_id):
    # Snapshots hold these two alone.
    env = made(task_id)
    names = [n for n in dir(env._sawyer.model) if not n.startswith("_")]

    def arrays():
        found = {name: getattr(env._sawyer.model, name) for name in names}
        return {n: a.tobytes() for n, a in found.items() if isinstance(a, np.ndarray)}

    before = arrays()
    env.start(31)
    for action in some_actions(10):
        env.advance(action)
    after = arrays()
    assert {n for n in before if before[n] != after[n]} <= {"body_pos", "site_pos"}


# ---------------------------------------------------------------------- progress and the expert


@each_task
def test_progress_leads_the_expert_to_one(task_id):
    env, expert = twin(task_id), metaworld.expert(TASKS[task_id])
    for seed in range(5):
        progress = [env.start(seed)]
        success = False
        while not success and len(progress) <= 300:
            outcome = env.advance(expert(env))
            success = outcome.success
            progress.append(outcome.progress)
        if success:
            break
    assert success, "the expert failed at five starts in a row"
    assert progress[0] == 0.0
    assert progress[-1] == 1.0
    assert all(0.0 <= value <= 0.99 for value in progress[:-1])
    # Shortly before success the task's own distance has shrunk.
    assert progress[-2] > 0.1


def test_the_expert_acts_within_bounds_and_without_warnings():
    env = made("reach-v3")
    env.start(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        action = metaworld.expert(TASKS["reach-v3"])(env)
    assert action.dtype == np.float32
    assert np.abs(action).max() <= 1.0


# -------------------------------------------------------------------------------- tables, errors


def test_there_are_fifty_tasks_in_four_buckets():
    assert len(TASKS) == 50
    assert {name: len(ids) for name, ids in metaworld.BUCKETS.items()} == {
        "easy": 28,
        "medium": 11,
        "hard": 6,
        "very_hard": 5,
    }


def test_instructions_are_short_commands():
    for task in TASKS.values():
        words = task.instruction.split()
        assert 3 <= len(words) <= 12, task
        assert words[0] not in ("the", "a", "robot"), task


def test_the_time_limit_is_at_most_that_of_metaworld():
    for steps in (0, 501):
        with pytest.raises(ValueError, match=f"max_steps {steps}.*1..500"):
            metaworld.make(replace(TASKS["push-v3"], max_steps=steps), Settings(cameras=()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cameras": ("corner7",)}, "'corner7'.*did you mean.*corner"),
        ({"cameras": ("corner", "corner")}, "twice"),
        ({"cameras": "corner"}, "tuple of names"),
        ({"quality": "best"}, "'best'.*fast, full"),
        ({"image_size": 15}, "15.*16..1024"),
        ({"image_size": 1025}, "1025.*16..1024"),
        ({"image_size": 64.0}, "64.0.*whole number"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        metaworld.spaces(Settings(**settings))


# ---------------------------------------------------------------------------------------- views


# The other cameras move with the hand, or look straight down.
@pytest.mark.parametrize("camera", ["corner", "corner2", "corner2_close", "corner3"])
def test_views_are_upright(camera):
    """Lifting the hand moves the red arm up in the frame."""
    env = metaworld.make(TASKS["push-v3"], Settings(cameras=(camera,)))
    heights = []
    for effort in (-1.0, 1.0):
        env.start(0)
        for _ in range(25):
            env.advance(np.array([0, 0, effort, 0], np.float32))
        image = env.render().astype(int)
        red = (image[..., 0] > 90) & (image[..., 1] < 60) & (image[..., 2] < 60)
        heights.append(np.nonzero(red)[0].mean())
    lowered, lifted = heights
    assert lifted < lowered - 0.5
    env.close()


def test_views_are_not_mirrored():
    """Seen from above with the robot below, the hand's way to +x leads to the right."""
    env = metaworld.make(TASKS["reach-v3"], Settings(cameras=("topview",)))
    columns = []
    for effort in (-1.0, 1.0):
        env.start(0)
        for _ in range(25):
            env.advance(np.array([effort, 0, 0, 0], np.float32))
        image = env.render().astype(int)
        red = (image[..., 0] > 90) & (image[..., 1] < 60) & (image[..., 2] < 60)
        columns.append(np.nonzero(red)[1].mean())
    assert columns[1] > columns[0] + 0.5
    env.close()


def test_views_come_in_the_order_asked_for():
    pair = metaworld.make(TASKS["push-v3"], Settings(cameras=("gripperPOV", "topview")))
    for index, camera in enumerate(("gripperPOV", "topview")):
        alone = metaworld.make(TASKS["push-v3"], Settings(cameras=(camera,)))
        np.testing.assert_array_equal(pair.observe().images[index], alone.observe().images[0])
        alone.close()
    pair.close()


def test_many_tasks_can_be_rendered_in_one_process():
    envs = [metaworld.make(task, Settings()) for task in list(TASKS.values())[::5]]
    for env in envs:
        env.start(1)
    frames = [env.observe().images for env in envs]
    for env, frame in zip(envs, frames, strict=True):
        np.testing.assert_array_equal(env.observe().images, frame)
        env.close()
    assert len({frame.tobytes() for frame in frames}) == len(envs)


def test_no_cameras_means_no_images():
    """And no GL library: the renderer is never made."""
    observation = twin("push-v3").observe()
    assert observation.images.shape == (0, 64, 64, 3)
    assert twin("push-v3")._renderer is None
