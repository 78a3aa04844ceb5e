"""Worlds, and configurations as JSON."""

from __future__ import annotations

import json

import pytest

from vla_rl.algorithms import loop
from vla_rl.config import World, from_json, read_world, specialise, to_json, write_world
from vla_rl.envs import point_reach
from vla_rl.learner import LearnerConfig
from vla_rl.types import SEED_RANGES, seed_for


def test_horizons_are_one_for_all_or_one_for_each():
    tasks = ("red", "green")
    one = World("point_reach", tasks, max_steps=(7,)).resolved()
    each = World("point_reach", tasks, max_steps=(7, 9)).resolved()
    own = World("point_reach", tasks, max_steps=None).resolved()
    assert [task.max_steps for task in one] == [7, 7]
    assert [task.max_steps for task in each] == [7, 9]
    assert [task.max_steps for task in own] == [20, 20]
    with pytest.raises(ValueError, match="one for each of 2 tasks"):
        World("point_reach", tasks, max_steps=(1, 2, 3)).resolved()


def test_seeds_of_different_uses_never_meet():
    ranges = list(SEED_RANGES.values())
    for i, left in enumerate(ranges):
        for right in ranges[i + 1 :]:
            assert left.stop <= right.start or right.stop <= left.start
    world = World("point_reach", ("red",), max_steps=None)
    seeds = {use: {spec.seed for spec in world.specs(use, 50)} for use in SEED_RANGES}
    assert not seeds["demo"] & seeds["train"]
    assert not seeds["train"] & seeds["eval"]
    with pytest.raises(ValueError, match=r"'test'.*demo, train, eval"):
        seed_for("test", 0)
    with pytest.raises(ValueError, match="100000 is outside"):
        seed_for("demo", 100_000)


def test_a_world_is_written_and_read(tmp_path):
    world = World("point_reach", ("red",), (9,), point_reach.Settings(image_size=12))
    write_world(world, tmp_path)
    assert read_world(tmp_path) == world
    (tmp_path / "world.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        read_world(tmp_path)
    with pytest.raises(ValueError, match="not a saved policy"):
        read_world(tmp_path / "nothing")


def test_settings_survive_json():
    algorithm = loop.Algorithm(group_size=5, clip_ratio_high=0.3)
    assert from_json(loop.Algorithm, json.loads(json.dumps(to_json(algorithm)))) == algorithm


def test_json_errors_name_the_field_and_the_value():
    with pytest.raises(ValueError, match=r"lr.*'fast'"):
        from_json(LearnerConfig, {"lr": "fast"})


def test_specialise_changes_a_fields_type_and_default():
    made = specialise(World, env=(point_reach.Settings, point_reach.Settings(image_size=12)))
    assert made().env.image_size == 12
    assert issubclass(made, World)
