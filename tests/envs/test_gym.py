"""Any Gymnasium environment as a suite: classic ones, MuJoCo's, other packages', and odd ones."""

from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from tests.envs.gym_environments import PUSHT, made, play
from tests.helpers import composed
from vla_rl import plugins
from vla_rl.policies import tiny
from vla_rl.rollout.collector import RolloutConfig, episode_keys
from vla_rl.rollout.local_collector import LocalCollector
from vla_rl.rollout.play import PlaySettings
from vla_rl.rollout.slots import SlotPool, replay
from vla_rl.types import EpisodeSpec

CASES = [
    pytest.param("gym:CartPole-v1", {"success": "return>=195"}, id="discrete actions"),
    pytest.param("gym:CartPole-v1", {"image": ("none",)}, id="state only"),
    pytest.param("gym:Pendulum-v1", {"success": "reward>=-0.1"}, id="wide box"),
    pytest.param("gym:Painted-v0", {"kwargs": ("parts=true",), "success": "lifted"}, id="parts"),
    pytest.param("gym:FetchReach-v4", {}, id="goals", marks=pytest.mark.sim),
    pytest.param("gym:HalfCheetah-v5", {"success": "return>=9"}, id="v5", marks=pytest.mark.sim),
    pytest.param(PUSHT, {"kwargs": ("obs_type=pixels_agent_pos",)}, id="another package"),
    pytest.param(PUSHT, {}, id="drawn with traces of the last episode"),
]


# ------------------------------------------------------------------------------------- the contract


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_gymnasium_and_stable_baselines_accept_it(name, settings):
    env = made(name, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(env, skip_render_check=True)
        sb3_check_env(env)
    env.close()


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_the_seed_and_the_actions_determine_an_episode(name, settings):
    env, other = made(name, **settings), made(name, **settings)
    env.start(3)
    first, future, last = env.observe(), play(env, steps=8), env.observe()
    env.start(4)
    assert not np.array_equal(env.observe().state, first.state)
    play(env, seed=1, steps=5)
    for again in (env, other):
        again.start(3)
        assert np.array_equal(again.observe().images, first.images)
        assert np.array_equal(again.observe().state, first.state)
        for outcome, expected in zip(play(again, steps=8), future, strict=True):
            # The last digits of PushT's reward depend on where things lie in memory.
            assert outcome.reward == pytest.approx(expected.reward, rel=1e-9)
            assert outcome[1:] == expected[1:]
        assert np.array_equal(again.observe().images, last.images)
    env.close()
    other.close()


@pytest.mark.sim
def test_looking_leaves_no_trace():
    env = made("gym:FetchPickAndPlace-v4")
    env.start(0)
    blind = play(env, steps=6)
    seen = env.privileged
    env.start(0)
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 4)).astype(np.float32)
    for action, expected in zip(actions, blind, strict=True):
        env.observe()
        assert env.advance(action) == expected
    np.testing.assert_array_equal(env.privileged, seen)
    env.close()


def test_a_simulator_process_stays_free_of_torch():
    code = (
        "import sys; from vla_rl import plugins\n"
        "suite = plugins.load('envs', 'gym:CartPole-v1'); task = suite.tasks()[0]\n"
        "env = suite.make(task, suite.Settings()); env.start(1); env.observe(); env.close()\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "rror" not in done.stderr, "left noise at exit"


def test_actions_are_checked_and_the_clock_truncates():
    env = made("gym:Pendulum-v1", max_steps=3, success="none", image=("none",))
    env.start(0)
    within = env.advance(np.ones(1, np.float32))
    env.start(0)
    assert env.advance(np.full(1, 7.0, np.float32)) == within
    for bad in (np.full(1, np.nan), np.zeros(2)):
        with pytest.raises(ValueError, match="1 finite numbers"):
            env.advance(bad)
    outcomes = [env.advance(np.zeros(1, np.float32)) for _ in range(2)]
    assert [outcome.truncated for outcome in outcomes] == [False, True]
    with pytest.raises(RuntimeError, match="ended"):
        env.advance(np.zeros(1, np.float32))


def test_a_simulator_that_keeps_traces_of_an_episode_is_made_anew():
    env = made(PUSHT, success="none")  # it goes on drawing where it was sent in the last episode
    env.start(0)
    simulator, first = env._env, env.observe().images
    env.advance(np.ones(2, np.float32))
    env.start(0)
    assert env._env is not simulator
    np.testing.assert_array_equal(env.observe().images, first)
    pole = made("gym:CartPole-v1", image=("none",))
    simulator = pole._env
    pole.start(1)
    assert pole._env is simulator


# ------------------------------------------------------------------------------------ many episodes


def policy_for(name, settings):
    torch.manual_seed(0)
    suite = plugins.load("envs", name)
    policy = tiny.Policy(composed(tiny.Config, chunk=4, std=0.5), suite.spaces(settings))
    policy.remember([task.instruction for task in suite.tasks()])
    return policy


@pytest.mark.sim
@pytest.mark.parametrize("name", ["gym:FetchReach-v4", "gym:CartPole-v1"])
def test_both_placements_play_the_same_episodes_and_again(name):
    suite = plugins.load("envs", name)
    settings = suite.Settings()
    policy = policy_for(name, settings)
    task = replace(suite.tasks()[0], max_steps=12)
    specs = [EpisodeSpec(task, seed) for seed in (7, 8) for _ in range(2)]
    keys = episode_keys(0, "here", count=len(specs))
    played = []
    for placement in ("workers", "served"):
        config = RolloutConfig(placement=placement, workers=1)
        with LocalCollector(name, settings, config, "cpu") as collector:
            once, again = (
                collector.collect(policy, specs, keys, PlaySettings()).trajectories
                for _ in range(2)  # the second time in the same simulators
            )
        for a, b in zip(once, again, strict=True):
            np.testing.assert_array_equal(a.chunk.raw, b.chunk.raw)
            np.testing.assert_array_equal(a.env_reward, b.env_reward)
        played.append(once)
    for a, b in zip(*played, strict=True):
        np.testing.assert_array_equal(a.executed, b.executed)
        # The policy's batches are of other sizes, which rounds differently.
        np.testing.assert_allclose(a.chunk.raw, b.chunk.raw, atol=1e-4)
        np.testing.assert_allclose(a.env_reward, b.env_reward, atol=1e-4)
    group = played[0][:2]
    np.testing.assert_array_equal(group[0].obs.state[0], group[1].obs.state[0])
    assert not np.array_equal(group[0].chunk.raw, group[1].chunk.raw)


def test_every_episode_in_flight_has_its_own_simulator_and_keeps_it():
    suite = plugins.load("envs", "gym:Pendulum-v1")
    settings = suite.Settings(image=("none",), success="none")
    task = replace(suite.tasks()[0], max_steps=8)
    pool = SlotPool("gym:Pendulum-v1", settings)
    specs = [EpisodeSpec(task, seed) for seed in (1, 1, 2)]
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 4, 1)).astype(np.float32)

    def rewards():
        first, _ = pool.begin(specs)
        np.testing.assert_array_equal(first.state[0], first.state[1])
        assert not np.array_equal(first.state[0], first.state[2])
        # Rows are executed in any order, and not all of them at once.
        parts = [pool.execute([2, 0], actions[[2, 0]]), pool.execute([1], actions[[1]])]
        return np.concatenate([part.reward for part in parts])

    once = rewards()
    simulators = [slot.env for slot in pool._slots]
    assert len({id(env) for env in simulators}) == 3
    np.testing.assert_array_equal(rewards(), once)
    assert [slot.env for slot in pool._slots] == simulators
    for row, total in zip((2, 0, 1), once, strict=True):
        alone = made("gym:Pendulum-v1", image=("none",), success="none")
        alone.start(specs[row].seed)
        expected = sum(alone.advance(action).reward for action in actions[row])
        assert total == pytest.approx(expected, abs=1e-5)


def test_an_episode_can_be_filmed_afterwards():
    suite = plugins.load("envs", "gym:CartPole-v1")
    settings = suite.filmed(suite.Settings(image=("none",)))
    spec = EpisodeSpec(suite.tasks()[0], 5)
    frames = replay("gym:CartPole-v1", settings, spec, np.zeros((4, 2), np.float32))
    assert len(frames) == 5
    assert all(frame.shape == (240, 240, 3) for frame in frames)
    assert not np.array_equal(frames[0], frames[-1])


# ------------------------------------------------------------------------------------------ success


def test_success_by_return_ends_the_episode_and_falling_does_not_count():
    env = made("gym:CartPole-v1", image=("none",), success="return>=5")
    env.start(0)
    outcomes = play(env)
    assert [outcome.success for outcome in outcomes] == [False] * 4 + [True]
    assert outcomes[-1].terminated
    assert outcomes[-1].progress == 1.0
    env = made("gym:CartPole-v1", image=("none",))  # 475 points by the registry
    env.start(0)
    fallen = play(env)[-1]
    assert fallen.terminated
    assert not fallen.success


def test_success_need_not_end_the_episode():
    settings = {"success": "lifted", "success_ends": False, "kwargs": ("parts=true",)}
    env = made("gym:Painted-v0", max_steps=6, **settings)
    env.start(0)
    outcomes = [env.advance(np.ones(1, np.float32)) for _ in range(6)]
    assert [o.success for o in outcomes] == [False, True, True, True, True, True]
    assert outcomes[-1].truncated
    assert not any(outcome.terminated for outcome in outcomes)
    assert 0 < outcomes[0].progress < 0.6 < outcomes[-1].progress == 1.0


def test_a_key_that_never_comes_is_told_after_the_first_episode():
    env = made("gym:Painted-v0", max_steps=3, success="solved", kwargs=("parts=true",))
    env.start(0)
    still = -np.ones(1, np.float32)
    env.advance(still)
    env.advance(still)
    with pytest.raises(ValueError, match=r"'solved' was never in info.*progress.*--env.success"):
        env.advance(still)
