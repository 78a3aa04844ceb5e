"""Protocols, and that an evaluation plays every start once."""

from __future__ import annotations

import dataclasses

import pytest

from tests.helpers import WORLD, make_policy
from vla_rl.envs import metaworld, point_reach
from vla_rl.evaluate import EvalConfig, evaluate, protocol_id, with_protocol
from vla_rl.results.evaluation import compare
from vla_rl.rollout.collector import RolloutConfig
from vla_rl.rollout.local_collector import LocalCollector
from vla_rl.types import SEED_RANGES
from vla_rl.world import World


def id_of(world: World, config: EvalConfig) -> str:
    return protocol_id(*with_protocol(world.resolve(), config))


def test_every_start_exactly_once():
    config = RolloutConfig(workers=2)
    seen: list[str] = []
    with LocalCollector("point_reach", point_reach.Settings(), config, "cpu") as collector:
        result, episodes = evaluate(
            collector,
            make_policy(),
            WORLD.resolve(),
            EvalConfig(episodes_per_task=7),
            lambda task, success: seen.append(task),
        )
    assert len(seen) == 21
    assert set(result.tasks) == set(WORLD.tasks)
    for task in result.tasks.values():
        assert len(set(task.seeds)) == 7
        assert all(seed in SEED_RANGES["eval"] for seed in task.seeds)
    assert [t.spec for t in episodes] == WORLD.resolve().specs("eval", 7)
    assert result.horizon == 20


def test_the_protocol_id_says_everything_that_changes_the_number():
    base = World("metaworld", ("push-v3", "reach-v3"), (100,))
    config = EvalConfig(episodes_per_task=10)
    ids = [
        id_of(base, config),
        id_of(base, EvalConfig(episodes_per_task=11)),
        id_of(dataclasses.replace(base, max_steps=(90,)), config),
        id_of(dataclasses.replace(base, max_steps=(100, 90)), config),
        id_of(dataclasses.replace(base, tasks=("push-v3",)), config),
        id_of(dataclasses.replace(base, env=metaworld.Settings(image_size=96)), config),
        id_of(dataclasses.replace(base, env=metaworld.Settings(quality="full")), config),
        id_of(dataclasses.replace(base, env=metaworld.Settings(cameras=("corner",))), config),
        id_of(base, EvalConfig(protocol="metaworld-official")),
        id_of(base, EvalConfig(episodes_per_task=10, starts="validation")),
        id_of(base, EvalConfig(protocol="metaworld-official", starts="validation")),
    ]
    assert len(set(ids)) == len(ids)
    swapped = dataclasses.replace(base, tasks=("reach-v3", "push-v3"))
    assert id_of(swapped, config) == ids[0]  # the order of tasks does not
    assert "validation" not in ids[0]  # so results of earlier versions can still be compared


def test_validation_starts_are_others_and_their_results_are_not_compared_with_reports():
    results = {}
    with LocalCollector(
        "point_reach", point_reach.Settings(), RolloutConfig(workers=1), "cpu"
    ) as collector:
        for starts in ("eval", "validation"):
            config = EvalConfig(episodes_per_task=3, starts=starts)
            results[starts], episodes = evaluate(collector, make_policy(), WORLD.resolve(), config)
            assert [t.spec for t in episodes] == WORLD.resolve().specs(starts, 3)
            assert all(t.spec.seed in SEED_RANGES[starts] for t in episodes)
    compare(results["validation"], results["validation"])
    with pytest.raises(ValueError, match=r"different protocols.*:validation'"):
        compare(results["eval"], results["validation"])


def test_unknown_starts_are_refused():
    with pytest.raises(ValueError, match="'eval' or 'validation', got 'train'"):
        EvalConfig(starts="train")  # type: ignore[arg-type]


def test_named_protocols_set_starts_and_horizon():
    world = World("metaworld", ("push-v3",), (100,))
    played, protocol = with_protocol(world.resolve(), EvalConfig(protocol="metaworld-official"))
    assert protocol.episodes_per_task == 50
    assert played.horizons == {"push-v3": 500}


def test_a_protocol_that_asks_for_another_camera_is_refused():
    world = World("metaworld", ("push-v3",), (100,))
    with pytest.raises(ValueError, match=r"corner2.*corner2_close"):
        with_protocol(world.resolve(), EvalConfig(protocol="metaworld-vla"))
    fitting = dataclasses.replace(world, env=metaworld.Settings(cameras=("corner2",)))
    assert (
        with_protocol(fitting.resolve(), EvalConfig(protocol="metaworld-vla"))[1].max_steps == 400
    )


def test_unknown_protocol_is_answered_with_the_near_ones():
    push = World("metaworld", ("push-v3",), None)
    with pytest.raises(ValueError, match="did you mean 'metaworld-vla'"):
        with_protocol(push.resolve(), EvalConfig(protocol="metaworld-vl"))
