"""Both placements play the same, and play again what was lost or raised."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.helpers import make_policy
from tests.rollout.helpers import assert_same, play_here, specs_of
from tests.user_code import fragile_reach
from vla_rl.envs import point_reach
from vla_rl.rollout.collector import RolloutConfig, episode_keys
from vla_rl.rollout.local_collector import LocalCollector
from vla_rl.rollout.play import PlaySettings
from vla_rl.rollout.worker_pool import WorkerFailed
from vla_rl.types import EpisodeSpec

FRAGILE = "tests.user_code.fragile_reach"


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
