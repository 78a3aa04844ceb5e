"""The rollout engine on the stand-in suite: what it plays, and what it survives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from tests.helpers import make_policy
from tests.user_code import fragile_reach
from vla_rl.envs import point_reach
from vla_rl.learning.learner import Learner, LearnerConfig
from vla_rl.rollout.collector import RolloutConfig, episode_keys
from vla_rl.rollout.local_collector import LocalCollector
from vla_rl.rollout.play import LocalSimulation, PlaySettings, play
from vla_rl.rollout.served import owners
from vla_rl.rollout.slots import SlotPool
from vla_rl.rollout.worker_pool import Failures, WorkerFailed
from vla_rl.types import EpisodeSpec, RolloutBatch, Timing, Trajectory

FRAGILE = "tests.user_code.fragile_reach"


def specs_of(module=point_reach, groups=3, size=4):
    starts = [EpisodeSpec(t, 100_000 + i) for i in range(groups) for t in module.tasks()]
    return [spec for spec in starts for _ in range(size)]


def play_here(policy, specs, keys, **settings) -> list[Trajectory]:
    simulation = LocalSimulation(SlotPool("point_reach", point_reach.Settings()))
    return play(policy, simulation, specs, keys, PlaySettings(**settings), Timing())


def assert_same(left: list[Trajectory], right: list[Trajectory]) -> None:
    """Equal but for the float rounding that the size of a batch causes."""
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.spec.seed == b.spec.seed
        assert a.success == b.success
        np.testing.assert_array_equal(a.executed, b.executed)
        for field in fields(a.chunk):
            np.testing.assert_allclose(
                getattr(a.chunk, field.name), getattr(b.chunk, field.name), atol=1e-4
            )


@pytest.fixture(scope="module")
def reference():
    policy, specs = make_policy(), specs_of()
    keys = episode_keys(0, "one", count=len(specs))
    return policy, specs, keys, play_here(policy, specs, keys)


def test_a_group_starts_alike_and_then_differs(reference):
    _, _, _, played = reference
    group = played[:4]
    assert len({t.spec for t in group}) == 1
    for member in group[1:]:
        np.testing.assert_array_equal(member.obs.images[0], group[0].obs.images[0])
        np.testing.assert_array_equal(member.obs.state[0], group[0].obs.state[0])
        assert not np.array_equal(member.chunk.raw[0], group[0].chunk.raw[0])


def test_an_episode_does_not_depend_on_who_else_is_played(reference):
    policy, specs, keys, played = reference
    alone = play_here(policy, specs[5:6], keys[5:6])
    assert_same(alone, played[5:6])


def test_episodes_end_inside_chunks_and_the_rest_is_masked(reference):
    _, _, _, played = reference
    for t in played:
        assert t.executed[:-1].all()  # only the last chunk can be cut
        assert t.steps == 20 if t.truncated else t.steps <= 20
        assert t.success != t.truncated
        assert len(t.progress) == t.decisions + 1
    cut = [t for t in played if not t.executed[-1].all()]
    assert cut  # 20 steps are no multiple of 3
    batch = RolloutBatch.pack([played[i : i + 4] for i in range(0, len(played), 4)])
    for row, t in enumerate(played):
        units = batch.mask[row].reshape(-1, 3, batch.mask.shape[2] // 3)
        assert units.all(axis=2).sum() == t.steps
        assert batch.valid[row].sum() == t.decisions


def test_packing_refuses_a_group_of_two_starts(reference):
    _, _, _, played = reference
    with pytest.raises(ValueError, match="share one spec"):
        RolloutBatch.pack([[played[0], played[4]]])


@pytest.mark.parametrize("density", ["marginal", "chunk", "decision", "episode"])
@pytest.mark.parametrize("trains", [("head",), ("vlm", "head", "critic")])
def test_logprob_at_acting_equals_logprob_at_update(density, trains):
    policy, specs = make_policy(density=density, rho=0.7, episode_share=0.3), specs_of()
    learner = Learner(policy, LearnerConfig(), trains)
    played = play_here(policy, specs, episode_keys(0, "two", count=len(specs)))
    batch = RolloutBatch.pack([played[i : i + 4] for i in range(0, len(played), 4)])
    rows = np.argwhere(batch.valid)
    scores = learner.evaluate(batch, rows)
    acted = batch.chunk.logprob[rows[:, 0], rows[:, 1]]
    np.testing.assert_allclose(scores.logprob.detach().numpy(), acted, atol=1e-4)
    kept_images = batch.obs.images.shape[2] > 0
    assert kept_images == ("vlm" in trains)  # frozen features replace images


def test_final_value_only_after_a_time_limit_and_only_if_asked():
    policy, specs = make_policy(), specs_of()
    with torch.no_grad():
        for parameter in policy.groups()["critic"]:
            parameter.normal_(0, 0.5)
    keys = episode_keys(1, "final", count=len(specs))
    asked = play_here(policy, specs, keys, final_value=True)
    assert any(t.truncated for t in asked)
    assert any(t.success for t in asked)
    for t in asked:
        assert (t.final_value != 0) == t.truncated
    assert all(t.final_value == 0 for t in play_here(policy, specs, keys))


def test_greedy_is_deterministic_and_ignores_keys():
    policy, specs = make_policy(), specs_of(size=1)
    first = play_here(policy, specs, [1] * len(specs), greedy=True)
    second = play_here(policy, specs, [2] * len(specs), greedy=True)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.chunk.raw, b.chunk.raw)


@pytest.mark.parametrize("placement", ["workers", "served"])
def test_both_placements_play_the_same(reference, placement):
    policy, specs, keys, played = reference
    config = RolloutConfig(placement=placement, workers=2, max_in_flight=16)
    with LocalCollector("point_reach", point_reach.Settings(), config, "cpu") as collector:
        rollout = collector.collect(policy, specs, keys, PlaySettings())
        assert_same(rollout.trajectories, played)
        assert set(rollout.seconds) == {"physics", "render", "transfer", "policy"}
        pids = collector.pids
    assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.parametrize("placement", ["workers", "served"])
def test_a_chosen_density_reaches_the_copies_in_workers(placement):
    policy, specs = make_policy(rho=0.7, episode_share=0.3), specs_of()
    keys = episode_keys(0, "two", count=len(specs))
    config = RolloutConfig(placement=placement, workers=2, max_in_flight=16)
    with LocalCollector("point_reach", point_reach.Settings(), config, "cpu") as collector:
        for density in ("episode", "marginal"):
            policy.use_density(density)
            played = play_here(policy, specs, keys)
            width = played[0].chunk.raw.shape[1]
            assert width == policy.units + (2 if density == "episode" else 0)
            assert_same(collector.collect(policy, specs, keys, PlaySettings()).trajectories, played)


@pytest.mark.parametrize("placement", ["workers", "served"])
@pytest.mark.parametrize("trouble", ["die", "hang"])
def test_a_lost_worker_is_replaced_and_its_episodes_are_played_again(
    reference, placement, trouble, tmp_path
):
    policy, _, keys, played = reference
    specs = specs_of(fragile_reach)
    settings = fragile_reach.Settings(trouble=trouble, marker=str(tmp_path / "happened"))
    config = RolloutConfig(placement=placement, workers=2, timeout=5.0)
    with LocalCollector(FRAGILE, settings, config, "cpu") as collector:
        rollout = collector.collect(policy, specs, keys, PlaySettings())
        assert collector.lost == 1
        assert collector.retried == 0
    assert Path(settings.marker).exists()
    assert_same(rollout.trajectories, played)


@pytest.mark.parametrize("placement", ["workers", "served"])
def test_an_episode_that_raises_once_is_played_again(reference, placement, tmp_path):
    policy, _, keys, played = reference
    settings = fragile_reach.Settings(trouble="raise", marker=str(tmp_path / "happened"))
    config = RolloutConfig(placement=placement, workers=2)
    with LocalCollector(FRAGILE, settings, config, "cpu") as collector:
        rollout = collector.collect(policy, specs_of(fragile_reach), keys, PlaySettings())
        assert collector.retried == 1
        assert collector.lost == 0
    assert Path(settings.marker).exists()
    assert_same(rollout.trajectories, played)


@pytest.mark.parametrize("placement", ["workers", "served"])
def test_an_episode_that_raises_twice_reaches_the_user(reference, placement):
    policy, _, keys, _ = reference
    settings = fragile_reach.Settings(trouble="raise_again")
    config = RolloutConfig(placement=placement, workers=1)
    with LocalCollector(FRAGILE, settings, config, "cpu") as collector:
        with pytest.raises(WorkerFailed, match="an action of 2 numbers does not suit") as failure:
            collector.collect(policy, specs_of(fragile_reach), keys, PlaySettings())
        assert collector.retried == 1
    said = str(failure.value)
    assert "in advance" in said  # the traceback
    assert "tests.user_code.fragile_reach/red#100000 failed with ValueError" in said


@pytest.mark.parametrize("placement", ["workers", "served"])
def test_many_episodes_that_raise_end_the_run_though_each_would_work_again(
    reference, placement, tmp_path
):
    policy, _, keys, played = reference
    settings = fragile_reach.Settings(trouble="raise_first", marker=str(tmp_path / "saw"))
    config = RolloutConfig(placement=placement, workers=1)
    red = fragile_reach.tasks()[0]
    specs = [EpisodeSpec(red, 100_000 + i) for i in range(4)]
    with LocalCollector(FRAGILE, settings, config, "cpu") as collector:
        rollout = collector.collect(policy, specs[:3], keys[:1] * 3, PlaySettings())
        assert collector.retried == 3
        with pytest.raises(WorkerFailed, match="4 failures in . jobs, 1 of them just now"):
            collector.collect(policy, specs[3:], keys[:1], PlaySettings())
    assert_same(rollout.trajectories[:1], played[:1])


def test_failures_are_few_by_the_call_and_by_the_share_of_all_jobs():
    def failing(count, jobs, start):
        failures = Failures(jobs=jobs)
        for number in range(count):
            if start:
                failures.begin()
            failures.count(WorkerFailed("oh", f"episode {number}"), before="another")
        return failures

    assert failing(3, jobs=1, start=False).total == 3
    assert failing(20, jobs=200, start=True).total == 20
    with pytest.raises(WorkerFailed, match="4 failures in 200 jobs, 4 of them just now"):
        failing(4, jobs=200, start=False)
    with pytest.raises(WorkerFailed, match="21 failures in 200 jobs, 1 of them just now"):
        failing(21, jobs=200, start=True)
    with pytest.raises(WorkerFailed, match="^oh$"):
        Failures(jobs=200).count(WorkerFailed("oh", "episode 0"), before="episode 0")


def test_signals_that_end_a_job_are_left_to_the_parent(reference):
    policy, specs, keys, played = reference
    with LocalCollector(
        "point_reach", point_reach.Settings(), RolloutConfig(workers=2), "cpu"
    ) as c:
        family = [psutil.Process(pid) for pid in c.pids]
        for process in {*family, *(p.parent() for p in family)}:  # the workers and the fork server
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
        assert_same(c.collect(policy, specs, keys, PlaySettings()).trajectories, played)
        c._pool.replace(0)  # which asks the fork server
        assert_same(c.collect(policy, specs, keys, PlaySettings()).trajectories, played)
    assert not any(process.is_running() for process in family)


def test_no_orphans_when_the_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            """
            import time
            from vla_rl.rollout.collector import RolloutConfig
            from vla_rl.rollout.local_collector import LocalCollector
            from vla_rl.envs import point_reach
            if __name__ == "__main__":
                config = RolloutConfig(workers=2)
                c = LocalCollector("point_reach", point_reach.Settings(), config, "cpu")
                print(*c.pids, flush=True)
                time.sleep(60)
            """
        )
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_group_stays_in_one_worker():
    specs = specs_of(groups=2, size=3)
    owner = owners(specs, 2)
    assert owner.tolist() == [0] * 3 + [1] * 3 + [0] * 3 + [1] * 3 + [0] * 3 + [1] * 3


def test_keys_differ_and_repeat():
    keys = episode_keys(3, "use", 4, count=100)
    assert len(set(keys)) == 100
    assert keys == episode_keys(3, "use", 4, count=100)
    assert keys[:10] != episode_keys(3, "use", 5, count=10)


@pytest.mark.parametrize(
    "bad",
    [{"workers": -1}, {"max_in_flight": 0}, {"timeout": 0.0}],
    ids=lambda bad: next(iter(bad)),
)
def test_bad_rollout_settings_are_refused(bad):
    with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
        RolloutConfig(**bad)
