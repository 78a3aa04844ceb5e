"""Any Gymnasium environment as a suite: classic ones, MuJoCo's, other packages', and odd ones."""

from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from tests.helpers import composed
from vla_rl import gym_spaces, plugins
from vla_rl.envs._gym import ids, images, success_rule
from vla_rl.policies import tiny
from vla_rl.rollout.collector import RolloutConfig, episode_keys
from vla_rl.rollout.local_collector import LocalCollector
from vla_rl.rollout.play import PlaySettings
from vla_rl.rollout.slots import SlotPool, replay
from vla_rl.types import EpisodeSpec
from vla_rl.world import World

PUSHT = "gym:gym_pusht/PushT-v0"


class Painted(gymnasium.Env):
    """A number that actions move; the picture is red above and blue below, paler as it grows."""

    metadata = {"render_modes": ["human"], "render_fps": 10}
    layouts = {
        "hwc": ((20, 30, 3), lambda image: image),
        "chw": ((3, 20, 30), lambda image: np.moveaxis(image, 2, 0)),
        "gray": ((20, 30), lambda image: image[..., 0]),
    }

    def __init__(self, layout="hwc", parts=False, seeded=True):
        self.layout, self.parts, self.seeded = layout, parts, seeded
        picture = spaces.Box(0, 255, self.layouts[layout][0], np.uint8)
        self.observation_space = picture
        if parts:
            hand = {"hand": spaces.Box(-9, 9, (2,)), "mode": spaces.Discrete(3)}
            eyes = {"top": picture, "wrist": picture}
            self.observation_space = spaces.Dict({**hand, "pixels": spaces.Dict(eyes)})
        self.action_space = spaces.Box(0.0, 10.0, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        rng = self.np_random if self.seeded else np.random.default_rng()
        self.number = rng.uniform(0, 1)
        return self._observation(), {}

    def step(self, action):
        self.number += float(np.sum(action))
        info = {"progress": self.number / 20}
        if self.number > 20:
            info["lifted"] = True
        return self._observation(), self.number, False, False, info

    def _observation(self):
        image = np.full((20, 30, 3), min(20 + int(self.number), 99), np.uint8)
        image[:10, :, 0], image[10:, :, 2] = 250, 250
        picture = self.layouts[self.layout][1](image)
        if not self.parts:
            return picture
        hand = np.array([self.number, -self.number], np.float32)
        return {"hand": hand, "mode": 2, "pixels": {"top": picture, "wrist": picture // 2}}


class Rendered(Painted):
    """Draws whatever it is told to."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, frame, render_mode=None):
        super().__init__()
        self.frame, self.render_mode = frame, render_mode

    def render(self):
        return np.array(self.frame, np.uint8)


gymnasium.register("Painted-v0", f"{__name__}:Painted")
gymnasium.register("Rendered-v0", f"{__name__}:Rendered")


def made(name, max_steps=None, **settings):
    suite = plugins.load("envs", name)
    task = suite.tasks()[0]
    task = task if max_steps is None else replace(task, max_steps=max_steps)
    return suite.make(task, suite.Settings(**settings))


def play(env, seed=0, steps=1000):
    """Random actions to the end of the episode, or for a number of steps."""
    actions = np.random.default_rng(seed).uniform(-1, 1, (steps, env.spaces.action_dim))
    outcomes = []
    for action in actions.astype(np.float32):
        outcomes.append(env.advance(action))
        if outcomes[-1].terminated or outcomes[-1].truncated:
            break
    return outcomes


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


# --------------------------------------------------------------------------------- the contract


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


# ---------------------------------------------------------------------------------- many episodes


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


# ------------------------------------------------------------------------------- ids and arguments


def test_a_task_is_named_by_its_id_and_its_registered_horizon():
    tasks = {name: plugins.load("envs", name).tasks() for name in ("gym:CartPole-v1", PUSHT)}
    assert [len(found) for found in tasks.values()] == [1, 1]
    pole, push = (found[0] for found in tasks.values())
    assert (pole.suite, pole.id, pole.max_steps) == ("gym:CartPole-v1", "CartPole-v1", 500)
    assert (push.suite, push.id, push.max_steps) == (PUSHT, "gym_pusht/PushT-v0", 300)
    world = World("gym:CartPole-v1", ("all",), (50,), instruction="keep the pole up")
    assert [(t.instruction, t.max_steps) for t in world.resolve().tasks] == [
        ("keep the pole up", 50)
    ]


@pytest.mark.parametrize(
    ("env_id", "words"),
    [
        ("FetchPickAndPlace-v4", "fetch pick and place"),
        ("gym_pusht/PushT-v0", "push t"),
        ("my_lab:ALE/MsPacman-v5", "ms pacman"),
        ("HTTPServer2-v1", "http server 2"),
    ],
)
def test_an_instruction_is_made_of_the_words_of_the_id(env_id, words):
    assert ids.instruction(env_id) == words


def test_a_module_before_the_id_is_imported():
    assert ids.find("gym_pusht:gym_pusht/PushT-v0").max_episode_steps == 300
    with pytest.raises(ValueError, match=r"'no_such_lab' cannot be imported"):
        ids.find("no_such_lab:Thing-v0")


def test_an_unknown_id_is_answered_with_near_ones():
    suite = plugins.load("envs", "gym:CartPol-v1")
    with pytest.raises(ValueError, match=r"'CartPol-v1'.*'CartPole-v1'.*gym:PACKAGE:ID"):
        suite.tasks()
    pole = plugins.load("envs", "gym:CartPole-v1")
    other = replace(pole.tasks()[0], id="CartPole-v2")
    with pytest.raises(ValueError, match="did you mean 'CartPole-v1'"):
        pole.make(other, pole.Settings())


def test_arguments_are_json_or_text():
    given = ("obs_type=pixels", "gain=0.5", "size=[1, 2]", "on=true", "name=")
    expected = {"obs_type": "pixels", "gain": 0.5, "size": [1, 2], "on": True, "name": ""}
    assert ids.keywords(given) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gain",), "must be key=value"),
        (("render_mode=human",), "is set by image"),
        (("max_episode_steps=5",), "is set by --max-steps"),
        (("a=1", "a=2"), "given twice"),
        (("no_such_argument=1",), "CartPole-v1 cannot be made with .*no_such_argument"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        made("gym:CartPole-v1", kwargs=arguments)


# ------------------------------------------------------------------------------------ observations


@pytest.mark.parametrize("layout", ["hwc", "chw", "gray"])
def test_pictures_of_any_layout_arrive_upright_and_square(layout):
    env = made("gym:Painted-v0", image_size=16, success="none", kwargs=(f"layout={layout}",))
    env.start(0)
    image = env.observe().images[0].astype(int)
    assert env.spaces.views == ("observation",)
    assert image.shape == (16, 16, 3)
    upper, lower = image[0, 0], image[-1, -1]
    if layout == "gray":
        assert list(upper) == [250, 250, 250]
        assert lower[0] == lower[1] == lower[2] < 30
    else:
        assert upper[0] == lower[2] == 250
        assert max(upper[2], lower[0]) < 30
    # A new pixel is the mean of what it covers: the border lies in the middle of two rows.
    assert list(image[:8, 3, 0]) == [250] * 8


def test_parts_of_an_observation_are_found_or_named():
    everything = made("gym:Painted-v0", success="none", kwargs=("parts=true",))
    everything.start(0)
    seen = everything.observe()
    assert everything.spaces.views == ("pixels/top", "pixels/wrist")
    assert seen.images[0].max() == 250
    assert seen.images[1].max() == 125
    number = seen.state[0]
    np.testing.assert_array_equal(seen.state, [number, -number, 0, 0, 1])  # the mode is one-hot
    some = made(
        "gym:Painted-v0",
        image=("pixels/wrist",),
        state=("mode",),
        success="none",
        kwargs=("parts=true",),
    )
    some.start(0)
    assert some.observe().images[0].max() == 125
    np.testing.assert_array_equal(some.observe().state, [0, 0, 1])
    np.testing.assert_allclose(some.privileged, seen.state, rtol=1e-6)


def test_every_goal_is_in_the_state():
    assert made("gym:FetchReach-v4", image=("none",)).spaces.state_dim == 10 + 3 + 3


@pytest.mark.sim
def test_simulators_share_what_draws_them():
    one, two = made("gym:FetchReach-v4"), made("gym:FetchReach-v4")
    one.start(1)
    two.start(2)
    first, second = one.observe().images, two.observe().images
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(one.observe().images, first)
    assert one._painter._stage is two._painter._stage
    one.close()
    np.testing.assert_array_equal(two.observe().images, second)
    two.close()
    assert not images._stages


@pytest.mark.sim
def test_the_camera_does_not_depend_on_the_first_start_that_is_seen():
    pictures = []
    for seen_first in (5, 6):
        env = made("gym:HalfCheetah-v5", success="none")
        env.start(seen_first)
        env.observe()
        env.start(7)
        pictures.append(env.observe().images)
        env.close()
    np.testing.assert_array_equal(*pictures)


@pytest.mark.sim
def test_the_fast_picture_shows_what_gymnasium_renders():
    pictures = []
    for image, quality in (("mujoco", "fast"), ("mujoco", "full"), ("render", "fast")):
        env = made("gym:FetchReach-v4", image=(image,), quality=quality)
        env.start(2)
        pictures.append(env.observe().images[0].astype(float))
        env.close()
    fast, full, own = pictures
    assert own.std() > 20
    # Edges differ, surfaces do not.
    assert np.median(np.abs(full - own)) <= 2
    assert np.median(np.abs(fast - own)) <= 4
    assert np.corrcoef(fast.ravel(), own.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image": ("pixels/front",)}, r"'pixels/front'.*did you mean.*'pixels/top'"),
        ({"image": ("hand",)}, r"unknown image.*'hand'.*an image is uint8"),
        ({"image": ("render",)}, "no render mode rgb_array"),
        ({"image": ("pixels/top", "pixels/top")}, "each once"),
        ({"image": ()}, "at least one"),
        ({"image": ("mujoco",)}, "unknown image.*'mujoco'"),
        ({"state": ("hands",)}, "did you mean 'hand'"),
        ({"state": ("hand", "hand")}, "each once"),
        ({"image": ("none",), "state": ("none",)}, "show a policy nothing"),
        ({"image_size": 8}, "8 is outside"),
        ({"quality": "best"}, "unknown quality 'best'"),
        ({"success": "return>=often"}, "number after >=, got 'often'"),
        ({"success": "return > 5"}, "unknown success 'return > 5'"),
        ({"success": "auto"}, r"info has progress and.*return>=X"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_played(settings, message):
    suite = plugins.load("envs", "gym:Painted-v0")
    given = {"success": "none", "kwargs": ("parts=true",), **settings}
    with pytest.raises(ValueError, match=message):
        suite.spaces(suite.Settings(**given))


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


def test_what_ignores_its_seed_is_refused():
    with pytest.raises(ValueError, match="same seed twice"):
        made("gym:Painted-v0", kwargs=("parts=true", "seeded=false"), success="none")


@pytest.mark.parametrize(
    ("frame", "message"),
    [("[[[0,0,0],[0,0,0]]]", "one colour only"), ("[[1,2]]", r"gave uint8 of shape \[1, 2\]")],
)
def test_a_frame_that_shows_nothing_is_refused(frame, message):
    env = made("gym:Rendered-v0", image=("render",), success="none", kwargs=(f"frame={frame}",))
    env.start(0)
    with pytest.raises(RuntimeError, match=message):
        env.observe()


# ----------------------------------------------------------------------------------------- actions


@pytest.mark.parametrize(
    ("space", "action", "expected"),
    [
        (spaces.Box(np.array([-2, 0]), np.array([2, 10]), dtype=np.float64), [0, -0.5], [0, 2.5]),
        (spaces.Box(-1, 1, (2, 2)), [-1, 0.25, 0.5, 1], [[-1, 0.25], [0.5, 1]]),
        (spaces.Box(0, 4, (1,), np.int64), [0.2], [2]),
        (spaces.Discrete(3, start=5), [-0.2, 0.9, 0.1], 6),
        (spaces.MultiDiscrete([2, 3]), [0.1, 0.0, -1, -0.5, -0.2], [0, 2]),
        (spaces.MultiBinary(3), [0.5, -0.5, 0.0], [1, 0, 0]),
    ],
)
def test_actions_are_mapped_to_the_environments_own(space, action, expected):
    mapped = gym_spaces.action_map(space)
    assert mapped.size == len(action)
    found = mapped.to_env(np.array(action, np.float64))
    np.testing.assert_allclose(found, expected)
    assert space.contains(found)
    for edge in (-1.0, 1.0):
        assert space.contains(mapped.to_env(np.full(mapped.size, edge)))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(-np.inf, np.inf, (2,)), "no bounds.*RescaleAction"),
        (spaces.Dict(hand=spaces.Discrete(2)), "not supported; allowed: Box, Discrete"),
    ],
)
def test_actions_that_cannot_be_mapped_are_refused(space, message):
    with pytest.raises(ValueError, match=message):
        gym_spaces.action_map(space)


# ----------------------------------------------------------------------------------------- success


@pytest.mark.parametrize(
    ("text", "info", "threshold", "expected"),
    [
        ("auto", {"success", "is_success"}, 9.0, success_rule.Success("info", "success")),
        ("auto", {"is_success"}, 9.0, success_rule.Success("info", "is_success")),
        ("auto", {"speed"}, 9.0, success_rule.Success("return", threshold=9.0)),
        ("lifted", set(), None, success_rule.Success("info", "lifted")),
        ("reward>=-0.5", set(), None, success_rule.Success("reward", threshold=-0.5)),
        ("return >= 1e3", set(), None, success_rule.Success("return", threshold=1000.0)),
        ("terminated", set(), None, success_rule.Success("terminated")),
    ],
)
def test_the_rule_for_success_is_said_or_found(text, info, threshold, expected):
    assert success_rule.rule(text, "Thing-v0", info, threshold) == expected


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
