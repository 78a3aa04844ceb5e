"""How episodes end: each combination by hand, and what each teaches where the best is known."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from tests.helpers import composed, make_policy, play_groups
from tests.user_code import two_states
from vla_rl import plugins
from vla_rl.curricula import uniform
from vla_rl.episode_end import EpisodeEnd, end_of
from vla_rl.learning.learner import Learner, LearnerConfig
from vla_rl.policies import tiny
from vla_rl.rewards import dense, progress, rewarded, sparse
from vla_rl.rollout.collector import Rollout
from vla_rl.rollout.play import LocalSimulation, PlaySettings, play
from vla_rl.rollout.slots import SlotPool
from vla_rl.sft import AnchorConfig
from vla_rl.stages.setup import rewards_named
from vla_rl.stages.train import Recipe, end_of_episodes
from vla_rl.train import Loop
from vla_rl.train_config import TrainConfig
from vla_rl.types import Timing
from vla_rl.world import World

SUM = EpisodeEnd()  # of an algorithm that adds up rewards
HALF = EpisodeEnd(gamma=0.5)
GOES_ON = EpisodeEnd(gamma=0.5, bootstrap=True)


@pytest.fixture(scope="module")
def template():
    return play_groups(make_policy(), 3, 1)[0][0]


def episode(template, *, success, truncated, reward=(2.0, 3.0), last=1.5, steps=6, horizon=12):
    """Two decisions of three steps, of a suite that does not scale its reward."""
    task = replace(template.spec.task, suite=two_states.__name__, max_steps=horizon)
    executed = np.zeros((2, 3), bool)
    executed.reshape(-1)[:steps] = True
    return replace(
        template,
        spec=replace(template.spec, task=task),
        obs=template.obs[[0, 0]],
        chunk=template.chunk[[0, 0]],
        env_reward=np.array(reward, np.float32),
        last_env_reward=last,
        executed=executed,
        progress=np.array([0.2, 0.4, 1.0 if success else 0.7], np.float32),
        success=success,
        truncated=truncated,
        final_value=9.0,
    )


SOLVED = {"success": True, "truncated": False}
FAILED = {"success": False, "truncated": False}
LATE = {"success": False, "truncated": True}
SOLVED_LATE = {"success": True, "truncated": True}


# ------------------------------------------------------------------------------- what is paid


@pytest.mark.parametrize(
    ("how", "end", "paid"),
    [
        # six of twelve steps are left: 6 * 1.5 = 9 on top of the last 3
        (SOLVED, SUM, [2, 12]),
        # two decisions of 3 * 1.5 are left, discounted by one half each: 4.5 * (1/2 + 1/4)
        (SOLVED, HALF, [2, 3 + 4.5 * 0.75]),
        # for ever: 4.5 * (1/2 + 1/4 + ...)
        (SOLVED, GOES_ON, [2, 3 + 4.5]),
        *(
            (how, end, [2, 3])
            for how in (FAILED, LATE, SOLVED_LATE)
            for end in (SUM, HALF, GOES_ON)
        ),
    ],
)
def test_a_solved_episode_goes_on_being_paid(template, how, end, paid):
    np.testing.assert_allclose(dense.Reward().of(episode(template, **how), end), paid)


def test_who_is_done_is_not_punished_for_the_steps_that_are_left(template):
    tired = episode(template, **SOLVED, reward=(-3.0, -3.0), last=-1.0)
    np.testing.assert_allclose(dense.Reward().of(tired, SUM), [-3, -3])


def test_an_end_inside_a_chunk_leaves_a_part_of_it(template):
    early = episode(template, **SOLVED, steps=4)  # eight steps are left, 8/3 decisions
    np.testing.assert_allclose(dense.Reward().of(early, SUM), [2, 3 + 8 * 1.5])
    expected = 3 + 4.5 * (1 - 0.5 ** (8 / 3))
    np.testing.assert_allclose(dense.Reward().of(early, HALF), [2, expected], rtol=1e-6)


def test_metaworld_pays_at_most_one(template):
    """10 a step when solved, over 10 times the horizon; solved in the first step is worth all."""
    t = episode(template, **SOLVED, reward=(0.0, 10.0), last=10.0, steps=1)
    task = replace(t.spec.task, suite="metaworld", max_steps=20)
    t = replace(t, spec=replace(t.spec, task=task))
    assert dense.Reward().of(t, SUM).sum() == pytest.approx(1.0)
    hovering = replace(t, success=False, truncated=True, env_reward=np.array([90.0, 90.0]))
    assert dense.Reward().of(hovering, SUM).sum() == pytest.approx(0.9)


def test_the_kitchen_pays_each_element_once(template):
    t = episode(template, **SOLVED, reward=(1.0, 3.0), last=1.0)
    task = replace(t.spec.task, suite="franka_kitchen", subgoals=("a", "b", "c", "d"))
    t = replace(t, spec=replace(t.spec, task=task))
    np.testing.assert_allclose(dense.Reward().of(t, SUM), [0.25, 0.75])


# ---------------------------------------------------------------------------------- the potential


@pytest.mark.parametrize(
    ("how", "end", "paid"),
    [
        *((how, SUM, [0.2, -0.4]) for how in (SOLVED, FAILED, LATE, SOLVED_LATE)),
        *((how, HALF, [0.0, -0.4]) for how in (SOLVED, FAILED, LATE, SOLVED_LATE)),
        # a time limit that is bootstrapped is no end: the potential stays, 1/2 * .7 - .4
        (LATE, GOES_ON, [0.0, -0.05]),
        *((how, GOES_ON, [0.0, -0.4]) for how in (SOLVED, FAILED, SOLVED_LATE)),
    ],
)
def test_the_potential_is_nothing_at_every_end(template, how, end, paid):
    t = episode(template, **how)
    np.testing.assert_allclose(progress.Reward().of(t, end), paid, atol=1e-6)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_shaping_ranks_no_episode_above_another(template, gamma):
    """The discounted sum is minus the first potential, whatever was done."""
    end = EpisodeEnd(gamma)
    for how in (SOLVED, FAILED, LATE, SOLVED_LATE):
        paid = progress.Reward().of(episode(template, **how), end)
        assert paid[0] + gamma * paid[1] == pytest.approx(-0.2, abs=1e-6)


# ------------------------------------------------------------------------------ what may follow


@pytest.mark.parametrize(
    ("how", "bootstrap", "outcome", "closed"),
    [
        *((how, True, True, True) for how in (SOLVED, FAILED, SOLVED_LATE)),
        *((how, True, False, True) for how in (SOLVED, FAILED)),
        (LATE, True, True, False),
        (LATE, True, False, False),
        # nothing was paid for being solved at the end, so it goes on as any other
        (SOLVED_LATE, True, False, False),
        *((how, False, True, True) for how in (SOLVED, FAILED, LATE, SOLVED_LATE)),
    ],
)
def test_when_nothing_follows(template, how, bootstrap, outcome, closed):
    end = EpisodeEnd(0.9, bootstrap, pays_outcome=outcome)
    t = episode(template, **how)
    assert end.closed(t) == closed
    assert with_rewards(t, end, sparse).bootstrapped == (not closed)


def test_rewards_add_up(template):
    t = episode(template, **SOLVED)
    both = with_rewards(t, HALF, sparse, progress)
    np.testing.assert_allclose(both.reward, [0.0, 1 - 0.4], atol=1e-6)
    assert not with_rewards(t, SUM).reward.any()
    weighed = {"sparse": sparse.Reward(weight=2.0), "progress": progress.Reward(weight=0.5)}
    ((t,),) = rewarded([[t]], weighed, HALF)
    np.testing.assert_allclose(t.reward, [0.0, 2 - 0.5 * 0.4], atol=1e-6)


def with_rewards(t, end, *modules):
    """The episode with the sum of rewards of these modules."""
    rewards = {module.__name__: module.Reward() for module in modules}
    ((found,),) = rewarded([[t]], rewards, end)
    return found


# ------------------------------------------------------------------------------- the rule of a run


def rule(*names, ends=True, critic=True, gamma=0.99, limit="auto", decisions=None):
    decisions = critic if decisions is None else decisions
    paid = {reward.pays for reward in rewards_named(names).values()}
    return end_of(paid, ends, critic, decisions, gamma, limit)


@pytest.mark.parametrize("names", [("sparse",), ("speed",), ("subgoals",), ("sparse", "overlong")])
@pytest.mark.parametrize("ends", [True, False])
def test_success_within_the_horizon_is_not_bootstrapped(names, ends):
    assert rule(*names, ends=ends) == EpisodeEnd(0.99, False, pays_outcome=True)
    assert rule(*names, "progress", ends=ends) == EpisodeEnd(0.99, False, pays_outcome=True)


def test_only_what_really_goes_on_is_bootstrapped():
    assert not rule("dense", ends=True).bootstrap
    assert rule("dense", ends=False) == EpisodeEnd(0.99, True, pays_outcome=False)
    assert rule("dense", "progress", ends=False).bootstrap
    assert not rule("dense", "sparse", ends=False).bootstrap
    assert not rule("dense", ends=False, critic=False, gamma=1.0).bootstrap
    assert not rule("dense", ends=False, limit="failure").bootstrap
    assert rule("sparse", limit="bootstrap").bootstrap


def test_what_cannot_teach_is_refused():
    with pytest.raises(ValueError, match="only shape.*sparse, subgoals, speed"):
        rule("progress")
    with pytest.raises(ValueError, match="the same constant.*grpo_process"):
        rule("sparse", "progress", critic=False, gamma=1.0)
    assert rule("sparse", "progress", critic=False, gamma=1.0, decisions=True) == EpisodeEnd()
    with pytest.raises(ValueError, match="needs a critic"):
        rule("sparse", critic=False, gamma=1.0, limit="bootstrap")
    with pytest.raises(ValueError, match="discount below 1"):
        rule("dense", ends=False, gamma=1.0, limit="bootstrap")


# -------------------------------------------------------------------------------- what is learned


@dataclass
class Here:
    """A collector without workers."""

    settings: two_states.Settings
    lost: int = 0
    retried: int = 0
    pool: SlotPool = field(init=False)

    def __post_init__(self):
        self.pool = SlotPool(two_states.__name__, self.settings)

    def collect(self, policy, specs, keys, play_settings, on_episode=None):
        self.pool.last_look = play_settings.last_look
        simulation = LocalSimulation(self.pool, deque())
        played = play(policy, simulation, specs, keys, play_settings, Timing())
        return Rollout(played, {})


def learned(algorithm, rewards, ends, time_limit="auto", iterations=8, horizon=3):
    """The greedy action in the first state after training (positive finishes), and the loop."""
    settings = two_states.Settings(success_ends=ends)
    world = World(two_states.__name__, ("all",), (horizon,), settings)
    torch.manual_seed(0)
    policy = tiny.Policy(
        composed(tiny.Config, chunk=1, std=0.5, hidden=(16,)), two_states.spaces(settings)
    )
    policy.remember(["finish"])
    with torch.no_grad():
        policy.head.trunk[-1].bias.fill_(-0.3)  # finishes in about a quarter of its decisions
    config = TrainConfig(iterations=iterations, episodes_per_iteration=32, time_limit=time_limit)
    recipe = Recipe(
        algorithm=algorithm,
        anchor=AnchorConfig(),
        curriculum=uniform.Curriculum(world.resolve().tasks, 0),
        rewards=rewards_named(rewards),
        learner=LearnerConfig(lr=3e-3, critic_lr=1e-2, warmup_steps=0),
        train=config,
        seed=0,
    )
    end = end_of_episodes(recipe, world.resolve())
    learner = Learner(policy, recipe.learner, algorithm.trains)
    tasks = world.resolve().tasks
    loop = Loop(
        *(Here(settings), learner, algorithm, recipe.curriculum, recipe.rewards, end),
        *(tasks, config, 0),
    )  # fmt: skip
    for _ in range(iterations):
        loop.step()
    held_out = world.resolve().specs("eval", 1)
    (played,) = (
        Here(settings).collect(policy, held_out, [0], PlaySettings(greedy=True)).trajectories
    )
    return float(played.chunk.raw[0, 0]), loop


def made(name, **settings):
    return plugins.load("algorithms", name).Algorithm(**settings)


ALGORITHMS = {
    "ppo": lambda: made("ppo", critic_warmup=1, ppo_mini_batch_size=64, gamma=0.8),
    "loop": lambda: made("loop", ppo_mini_batch_size=64),
    "process": lambda: made(
        "grpo",
        adv_estimator="grpo_process",
        kl_coef=0.0,
        kl_placement="none",
        ppo_mini_batch_size=64,
    ),
}
REWARDS = {
    "sparse": ("sparse",),
    "speed": ("speed",),
    "overlong": ("sparse", "overlong"),
    "subgoals": ("subgoals",),
    "dense": ("dense",),
    "shaped": ("sparse", "progress"),
}


@pytest.mark.parametrize("ends", [True, False], ids=["ends", "goes-on"])
@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_finishing_is_what_is_learned(algorithm, reward, ends):
    """The best policy finishes; none may learn to stay where staying is paid nearly as much."""
    if reward == "shaped" and algorithm == "loop":
        with pytest.raises(ValueError, match="the same constant"):
            learned(ALGORITHMS[algorithm](), REWARDS[reward], ends)
        return
    # Staying is worth nine tenths of finishing, so that a critic has to be good to tell them apart.
    iterations = 30 if reward == "dense" else 10
    action, _ = learned(ALGORITHMS[algorithm](), REWARDS[reward], ends, iterations=iterations)
    assert action > 0


@pytest.mark.parametrize("ends", [True, False], ids=["ends", "goes-on"])
@pytest.mark.parametrize("reward", ["sparse", "speed"])
def test_what_pays_at_most_one_is_valued_at_most_one(reward, ends):
    _, loop = learned(ALGORITHMS["ppo"](), REWARDS[reward], ends, iterations=25)
    state = loop.state
    starts = loop.curriculum.sample(32)
    played = loop.collector.collect(loop.learner.policy, starts, range(32), PlaySettings())
    said = np.concatenate([t.chunk.value for t in played.trajectories])
    assert 0.5 < (state.mean + state.scale * said).max() < 1.1


def test_a_task_that_goes_on_is_valued_beyond_its_recording():
    """One a step for ever, discounted by .8: 1 / (1 - .8) = 5, of which 3 steps are 2.44."""
    _, loop = learned(ALGORITHMS["ppo"](), ("dense",), ends=False, iterations=40)
    assert loop.state.mean == pytest.approx(5.0, abs=0.5)
    _, loop = learned(ALGORITHMS["ppo"](), ("dense",), False, "failure", iterations=25)
    assert loop.state.mean < 2.44


def test_a_time_limit_that_is_bootstrapped_pays_a_solved_episode_for_ever():
    action, loop = learned(ALGORITHMS["ppo"](), ("dense",), True, "bootstrap", iterations=25)
    assert action > 0
    assert loop.end == EpisodeEnd(0.8, bootstrap=True, pays_outcome=False)
