"""The Franka Kitchen suite: its tasks, starts and experts, against stock ``FrankaKitchen-v1``.

Variants are in test_variants.py.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from vla_rl.envs import franka_kitchen
from vla_rl.envs._kitchen.simulator import Settings, spaces
from vla_rl.envs._kitchen.tasks import ELEMENTS, SEQUENCES
from vla_rl.envs.franka_kitchen import VARIANTS
from vla_rl.types import DenseReward

pytestmark = pytest.mark.sim

TASKS = {task.id: task for task in franka_kitchen.tasks() if task.id not in VARIANTS}
each_element = pytest.mark.parametrize("element", ELEMENTS)


@lru_cache(maxsize=4)
def made(task_id):
    return franka_kitchen.make(TASKS[task_id], Settings())


@lru_cache(maxsize=4)
def filmed(camera):
    return franka_kitchen.make(TASKS["kettle"], Settings(cameras=(camera,)))


def twin(task_id, **settings):
    return franka_kitchen.make(TASKS[task_id], Settings(cameras=(), **settings))


def stock(parts, qpos, seed):
    """Unmodified Franka Kitchen, started from given joint positions."""
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import KitchenEnv

    env = KitchenEnv(tasks_to_complete=[part.replace("-", " ") for part in parts])
    env.robot_env.init_qpos = qpos.copy()
    observed, _ = env.reset(seed=seed)
    return env, observed["observation"]


def some_actions(count, seed=0):
    # Held for a few steps, so that the hand gets somewhere.
    rng = np.random.default_rng(seed)
    return np.repeat(rng.uniform(-1, 1, (count // 5, 9)), 5, axis=0).astype(np.float32)


def finish(env, element):
    """Put an element where its goal is."""
    places, goal = env._stock.goals[element]
    env._data.qpos[places] = goal


STILL = np.zeros(9, np.float32)


# ------------------------------------------------------------------------------ against stock


@pytest.mark.parametrize("task_id", ["kettle", "kitchen-complete"])
def test_steps_are_bit_identical_to_stock(task_id):
    env, expert = made(task_id), franka_kitchen.expert(TASKS[task_id])
    env.start(7)
    plain, observed = stock(TASKS[task_id].subgoals or (task_id,), env._data.qpos, 7)
    np.testing.assert_array_equal(env._observed, observed[:9])
    completed = 0
    for step, random_action in enumerate(some_actions(160)):
        action = expert(env) if step < 130 else random_action
        observed, reward, terminated, _, info = plain.step(action)
        outcome = env.advance(action)
        assert outcome.reward == reward, step
        assert outcome.terminated == outcome.success == terminated
        np.testing.assert_array_equal(env._data.qpos, plain.data.qpos)
        np.testing.assert_array_equal(env._data.qvel, plain.data.qvel)
        np.testing.assert_array_equal(env._observed, observed["observation"][:9])
        if step % 8 == 0:
            # Looking must not change what comes after.
            env.observe()
        completed = len(info["episode_task_completions"])
    assert completed == env.done.bit_count() == (2 if TASKS[task_id].subgoals else 1)
    plain.close()


def test_without_noise_the_start_is_that_of_stock():
    env = twin("kettle", start_noise=0.0, kettle_noise=0.0)
    env.start(3)
    plain, observed = stock(["kettle"], env._stock.qpos, 3)
    np.testing.assert_array_equal(env._data.qpos, plain.data.qpos)
    np.testing.assert_array_equal(env.observe().state, observed[:9].astype(np.float32))
    np.testing.assert_allclose(env.privileged, observed, rtol=0, atol=2e-3)
    np.testing.assert_array_equal(env.privileged[18:39], plain.data.qpos[9:])
    plain.close()


# ------------------------------------------------------------------------ starts and snapshots


def test_starts_differ_as_documented_and_in_nothing_else():
    env = twin("kettle", start_noise=0.1, kettle_noise=0.02)
    starts = []
    for seed in range(40):
        assert env.start(seed) == 0.0
        starts.append(env._data.qpos.copy())
        robot = env.model.body_rootid[env.model.body("panda0_link7").id]
        touching = env.model.body_rootid[env.model.geom_bodyid[env._data.contact.geom]]
        assert not (touching == robot).any(), f"start {seed} is in contact"
    away = np.array(starts) - env._stock.qpos
    arm, kettle = away[:, :7], away[:, 23:25]
    # The second joint of the stock start is at its limit, so that half of its noise is cut off.
    assert (arm[:, [0, 2, 3, 4, 5, 6]].std(axis=0) > 0.06).all()
    assert arm[:, 1].std() > 0.03
    assert np.abs(arm).max() <= 0.2 + 1e-9
    assert (kettle.std(axis=0) > 0.007).all()
    assert np.abs(kettle).max() <= 0.02 + 1e-9
    np.testing.assert_array_equal(np.delete(away, [*range(7), 23, 24], axis=1), 0.0)


@pytest.mark.parametrize("task_id", ["microwave", "kitchen-complete"])
def test_snapshots_are_exact_in_the_middle_of_an_episode(task_id):
    env, other, expert = made(task_id), twin(task_id), franka_kitchen.expert(TASKS[task_id])
    env.start(11)
    for _ in range(60):
        env.advance(expert(env))
    saved = env.snapshot()
    assert saved.done == 1

    def future(copy):
        seen = []
        for action in some_actions(20, seed=1):
            outcome = copy.advance(action)
            seen.append((outcome, copy.privileged.tobytes(), copy._observed.tobytes()))
        return seen

    expected = future(env)
    env.restore(saved)
    assert future(env) == expected
    other.start(2)
    other.advance(STILL)
    other.restore(saved)
    assert future(other) == expected


def test_starts_forget_what_happened_before():
    env = made("kitchen-complete")
    env.start(21)
    expected, state = env.privileged, env.observe().state
    env.start(22)
    finish(env, "light-switch")
    for action in some_actions(10):
        env.advance(action)
    assert env.done
    env.start(21)
    assert env.done == env.steps == 0
    np.testing.assert_array_equal(env.privileged, expected)
    np.testing.assert_array_equal(env.observe().state, state)


# --------------------------------------------------------------------- subgoals, reward, progress


def test_a_subgoal_counts_once_in_any_order_and_stays_counted():
    env = twin("kitchen-complete")
    env.start(0)
    start = env._data.qpos.copy()
    outcome = env.advance(STILL)
    assert (outcome.reward, outcome.completed, outcome.success) == (0.0, 0, False)
    assert outcome.progress < 0.01
    finish(env, "light-switch")
    outcome = env.advance(STILL)
    assert (outcome.reward, outcome.completed, outcome.success) == (1.0, 0b100, False)
    assert 0.25 <= outcome.progress < 0.5
    outcome = env.advance(STILL)
    assert (outcome.reward, outcome.completed) == (0.0, 0b100)
    env._data.qpos[:] = start
    assert env.advance(STILL).completed == 0b100
    finish(env, "microwave")
    finish(env, "slide-cabinet")
    outcome = env.advance(STILL)
    assert (outcome.reward, outcome.completed, outcome.terminated) == (2.0, 0b1101, False)
    assert 0.75 <= outcome.progress < 1.0
    finish(env, "kettle")
    outcome = env.advance(STILL)
    assert (outcome.reward, outcome.completed, outcome.progress) == (1.0, 0b1111, 1.0)
    assert outcome.success
    assert outcome.terminated


def test_progress_is_the_share_of_the_way_to_the_threshold():
    env = twin("slide-cabinet")
    env.start(0)
    # It starts 0.37 from the goal and is done 0.3 from it; held by friction, it stays put.
    for where, share in ((0.0, 0.0), (0.035, 0.5), (0.063, 0.9)):
        env._data.qpos[env._stock.goals["slide-cabinet"][0]] = where
        env._data.qvel[:] = 0.0
        assert env.advance(STILL).progress == pytest.approx(share, abs=0.03)
    finish(env, "slide-cabinet")
    outcome = env.advance(STILL)
    assert (outcome.progress, outcome.reward, outcome.completed) == (1.0, 1.0, 0)


def test_the_dense_reward_is_the_share_of_what_was_done_and_is_paid_once():
    for name, scale in (("kitchen-complete", 0.25), ("kettle", 1.0)):
        found = franka_kitchen.dense_reward(TASKS[name])
        assert found == DenseReward(scale=scale, solved_step=0.0)


# -------------------------------------------------------------------------------- the experts


@each_element
def test_the_expert_does_every_element(element):
    env = twin(element)
    expert = franka_kitchen.expert(TASKS[element])
    for seed in (1, 2):
        progress = [env.start(seed)]
        success = False
        while not success and env.steps < 120:
            outcome = env.advance(expert(env))
            success = outcome.success
            progress.append(outcome.progress)
        assert success, seed
        assert max(progress[:-1]) < 1.0 == progress[-1]


@pytest.mark.parametrize("task_id", [name for name in SEQUENCES if name != "kitchen-all"])
def test_the_expert_does_every_short_sequence(task_id):
    env, expert = twin(task_id), franka_kitchen.expert(TASKS[task_id])
    env.start(1)
    total = 0.0
    while env.done != 0b1111:
        outcome = env.advance(expert(env))
        total += outcome.reward
        assert not outcome.truncated
    assert outcome.success
    assert total == 4.0


def test_the_expert_does_all_seven_given_time():
    task = replace(TASKS["kitchen-all"], max_steps=560)
    env, expert = franka_kitchen.make(task, Settings(cameras=())), franka_kitchen.expert(task)
    env.start(1)
    completed = [env.advance(expert(env)).completed.bit_count() for _ in range(280)]
    assert 4 <= completed[-1] < 7
    while completed[-1] < 7:
        outcome = env.advance(expert(env))
        assert not outcome.truncated
        completed.append(outcome.completed.bit_count())
    assert outcome.success


def test_an_expert_begins_anew_with_each_episode():
    env = twin("microwave")
    used, new = (franka_kitchen.expert(TASKS["microwave"]) for _ in range(2))
    env.start(3)
    for _ in range(30):
        env.advance(used(env))
    for expert in (used, new):
        env.start(4)
        actions = []
        for _ in range(20):
            actions.append(expert(env))
            env.advance(actions[-1])
        if expert is used:
            expected = actions
    np.testing.assert_array_equal(actions, expected)


# -------------------------------------------------------------------------------- tables, errors


def test_tasks_are_the_seven_elements_and_their_sequences():
    assert len(ELEMENTS) == 7
    assert set(SEQUENCES["kitchen-all"]) == set(ELEMENTS)
    assert TASKS.keys() == ELEMENTS.keys() | SEQUENCES.keys()
    for name, task in TASKS.items():
        assert task.subgoals == SEQUENCES.get(name, ())
        assert all(ELEMENTS[part] in task.instruction for part in task.subgoals)
    assert TASKS["kitchen-complete"].instruction == (
        "open the microwave, move the kettle, turn on the light and slide the cabinet open"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cameras": ("closed",)}, "'closed'.*did you mean.*close"),
        ({"cameras": ("close", "close")}, "twice"),
        ({"cameras": "close"}, "tuple of names"),
        ({"quality": "best"}, "'best'.*fast, full"),
        ({"image_size": 15}, "15.*16..1024"),
        ({"start_noise": 0.3}, "start_noise 0.3 is outside 0..0.2"),
        ({"kettle_noise": -0.01}, "kettle_noise -0.01 is outside 0..0.05"),
        ({"kettle_noise": float("nan")}, "kettle_noise nan is outside"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        spaces(Settings(**settings))


# ---------------------------------------------------------------------------------------- views


@pytest.mark.parametrize(("camera", "pixels"), [("fixed", 4), ("close", 8)])
@each_element
def test_every_element_is_seen_to_be_done(camera, pixels, element):
    env = filmed(camera)
    env.start(0)
    before = env.render().astype(int)
    finish(env, element)
    changed = np.abs(env.render() - before).max(axis=-1) > 20
    assert changed.sum() >= pixels


@pytest.mark.parametrize("camera", ["fixed", "close"])
def test_views_are_upright_and_not_mirrored(camera):
    """Lifting the kettle moves its brown handle up in the frame, and moving it to +x right."""
    env = filmed(camera)
    env.start(0)
    env._data.qpos[:9] = [-1.5, 0, 0, -1.5, 0, 1.5, 0, 0.04, 0.04]  # out of the way
    places = []
    for x, z in ((-0.27, 1.62), (-0.27, 1.9), (0.0, 1.62)):
        env._data.qpos[23], env._data.qpos[25] = x, z
        image = env.render().astype(int)
        brown = (image[..., 0] > 60) & (image[..., 0] > 2 * image[..., 2])
        places.append(np.array([axis.mean() for axis in np.nonzero(brown)]))
    here, lifted, right = places
    assert lifted[0] < here[0] - 3
    assert right[1] > here[1] + 3


def test_the_wrist_view_follows_the_hand():
    env = filmed("wrist")
    env.start(0)
    first = env.render().astype(int)
    env._data.qpos[0] += 0.3
    moved = env.render()
    # The fingers stay at the bottom of the frame, where all else has changed.
    assert np.abs(moved - first)[:32].mean() > 10
    assert np.abs(moved - first)[58:, 20:44].mean() < 5


def test_no_cameras_means_no_images():
    """And no GL library: the renderer is never made."""
    env = twin("kettle")
    assert env.observe().images.shape == (0, 64, 64, 3)
    assert env._renderer is None
