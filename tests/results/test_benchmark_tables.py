"""What the benchmark scripts make of evaluations, and the README's tables of their results."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks import main_job, metaworld_state, sb3_ppo
from benchmarks._runs import both, changes
from vla_rl.envs import metaworld
from vla_rl.results.evaluation import EvalResult, TaskResult
from vla_rl.rollout.play import LocalSimulation, PlaySettings, play
from vla_rl.rollout.slots import SlotPool
from vla_rl.types import ActionChunk, Timing


def evaluated(*steps: int) -> EvalResult:
    """Four starts of one task within 200 steps, and within 100 besides; 0 for a failure."""
    task = TaskResult(
        tuple(range(4)), tuple(n > 0 for n in steps), tuple(n if n else 200 for n in steps)
    )
    protocol = "custom:toys:4x200steps:image_size=64:1tasks-ab"
    result = EvalResult(protocol, "toys", 200, {}, "none", {"push": task})
    return replace(result, also_within=({"push": 100},))


def seed(number: int, before: EvalResult, after: EvalResult) -> dict[str, Any]:
    (was, was_later), (now, now_later) = both(before), both(after)
    generous = {"horizon": 200, **changes(was_later, now_later)}
    return {"seed": number, "seconds": 300.0, **changes(was, now), "generous": generous}


def test_the_main_job_tells_both_horizons():
    seeds = [
        seed(0, evaluated(90, 110, 120, 0), evaluated(60, 70, 80, 0)),
        seed(1, evaluated(110, 120, 130, 0), evaluated(60, 70, 150, 0)),
    ]
    over = main_job.over_seeds(seeds)
    assert over["mean"]["before"][0] == pytest.approx(0.125)  # 1 of 4 and 0 of 4
    assert over["mean"]["after"][0] == pytest.approx(0.625)
    later = main_job.over_seeds([s["generous"] for s in seeds])
    assert later["mean"]["before"][0] == later["mean"]["after"][0] == pytest.approx(0.75)
    result = {
        "config": {"world": {"tasks": ["push"], "max_steps": [100]}},
        "seeds": seeds,
        "over_seeds": over | {"generous": later},
        "machine": {"cores": 2, "processor": "CPU"},
        "date": "today",
        "git": "abc",
    }
    table = main_job.main_job(result)
    head, _, first = (line.split(" | ") for line in table.splitlines()[:3])
    assert head[2:5] == [
        "clone, within 100 steps",
        "after RL, within 100 steps",
        "difference in points, within 100 steps",
    ]
    assert head[5] == "clone, within 200 steps"
    assert [cell.split(" [")[0] for cell in first[2:8]] == [
        *("25 %", "75 %", "+50", "75 %", "75 %", "+0"),
    ]
    assert first[8] == "110 → 70 |"  # medians of 90, 110, 120 and of 60, 70, 80
    assert "Other machines are not covered" in table
    assert "nly one horizon" not in table
    for of_seed in seeds:
        del of_seed["generous"]
    earlier = main_job.main_job({**result, "over_seeds": over})
    assert "only one horizon was measured" in earlier
    assert "within 200" not in earlier


def test_tenths_by_hand():
    # Ten pieces of 20 steps: an episode counts in the one in which it ends.
    ended = [(20, 1.0), (21, 2.0), (40, 4.0), (200, 5.0)]
    assert sb3_ppo.tenths(ended, 200) == [1.0, 3.0, *[None] * 7, 5.0]


@pytest.mark.sim
def test_an_episode_of_the_state_suite_lasts_until_its_time_though_solved():
    task = next(t for t in metaworld_state.tasks() if t.id == "drawer-close-v3")
    env = metaworld_state.make(replace(task, max_steps=120), metaworld_state.Settings())
    expert = metaworld.expert(replace(task, suite="metaworld"))
    env.start(0)
    outcomes = [env.advance(expert(env)) for _ in range(120)]
    assert not any(outcome.terminated for outcome in outcomes)
    assert [outcome.truncated for outcome in outcomes] == [False] * 119 + [True]
    assert outcomes[-1].success
    assert outcomes[-1].reward == pytest.approx(10)
    seen = env.observe()
    assert seen.images.shape == (0, 16, 16, 3)
    assert np.array_equal(seen.state, env.privileged.astype(np.float32))


@pytest.mark.sim
def test_both_arms_act_in_the_same_environment():
    """The same actions from the same start are paid the same, by our loop and by the other's."""
    job = replace(sb3_ppo.JOBS["button"], max_steps=20)
    world = job.world
    pulled = np.array([0.3, 0.5, -0.2, 0.0], np.float32)

    class Always:
        def act(self, obs, instructions, keys):
            nothing = np.zeros((len(obs.state), 0), np.float32)
            actions = np.broadcast_to(pulled, (len(obs.state), 1, 4)).copy()
            zeros = np.zeros(len(obs.state), np.float32)
            return ActionChunk(actions, actions[:, 0], actions[:, 0], zeros, nothing)

    simulation = LocalSimulation(SlotPool(world.suite, world.resolve().settings))
    specs = world.resolve().specs("eval", sb3_ppo.HELD_OUT)
    keys = [0] * len(specs)
    played = play(Always(), simulation, specs, keys, PlaySettings(greedy=True), Timing())
    found = sb3_ppo.held_out(world, lambda states: np.tile(pulled, (len(states), 1)))
    assert found["returns"] == pytest.approx([t.env_reward.sum() for t in played], rel=1e-5)
    assert found["return"] > 0
    env = sb3_ppo.Seen(sb3_ppo.simulator(world))
    state, _ = env.reset(seed=3)
    again, _ = env.reset(seed=3)
    assert np.array_equal(state, again)
    for _ in range(20):
        *_, terminated, truncated, _ = env.step(pulled)
    assert (terminated, truncated) == (False, True)
    assert env.ended[0][0] == 20
