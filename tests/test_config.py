"""Worlds, and configurations as JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from vla_rl import plugins
from vla_rl.algorithms import loop
from vla_rl.commands._parsing import parse
from vla_rl.commands._specialised import specialise
from vla_rl.commands.eval import Command as Evaluate
from vla_rl.commands.record import Command as Record
from vla_rl.commands.sft import Command as Clone
from vla_rl.commands.train import Command as Train
from vla_rl.config import from_json, to_json
from vla_rl.envs import point_reach
from vla_rl.learning.learner import LearnerConfig
from vla_rl.stages.resuming import changes
from vla_rl.stages.setup import plain_settings
from vla_rl.types import SEED_RANGES, seed_for
from vla_rl.world import World, read_world, write_world


def test_horizons_are_one_for_all_or_one_for_each():
    tasks = ("red", "green")
    one = World("point_reach", tasks, max_steps=(7,)).resolve().tasks
    each = World("point_reach", tasks, max_steps=(7, 9)).resolve().tasks
    own = World("point_reach", tasks, max_steps=None).resolve().tasks
    assert [task.max_steps for task in one] == [7, 7]
    assert [task.max_steps for task in each] == [7, 9]
    assert [task.max_steps for task in own] == [20, 20]
    with pytest.raises(ValueError, match="one for each of 2 tasks"):
        World("point_reach", tasks, max_steps=(1, 2, 3)).resolve()


DIM = "tests.user_code.dim_reach"


@pytest.mark.parametrize(
    ("named", "ids"),
    [
        (("all",), ("red", "green", "blue")),
        (("dim",), ("red-dim", "blue-dim")),
        (("blue", "dim", "one"), ("blue", "red-dim", "blue-dim", "green")),
    ],
)
def test_a_split_stands_for_its_tasks_in_its_place(named, ids):
    world = World(DIM, named, None)
    assert world.task_ids() == tuple(task.id for task in world.resolve().tasks) == ids


def test_all_is_every_task_of_a_suite_without_splits():
    assert World("point_reach", ("all",), None).task_ids() == ("red", "green", "blue")


def test_horizons_may_be_one_for_each_task_of_a_split():
    tasks = World(DIM, ("dim", "green"), (5, 6, 7)).resolve().tasks
    assert [(t.id, t.max_steps) for t in tasks] == [("red-dim", 5), ("blue-dim", 6), ("green", 7)]
    with pytest.raises(ValueError, match="one for each of 3 tasks"):
        World(DIM, ("dim", "green"), (5, 6)).resolve()


@pytest.mark.parametrize(
    ("named", "words"),
    [
        (("dimm",), "unknown task 'dimm'; did you mean 'dim'"),
        (("red-dimm",), "did you mean 'red-dim'"),
        (("dim", "blue-dim"), "twice in .'dim', 'blue-dim'.: blue-dim"),
        (("dim", "dim"), "twice in .*: red-dim, blue-dim"),
        ((), "no task was named"),
    ],
)
def test_bad_names_are_refused_with_the_near_tasks_and_splits(named, words):
    with pytest.raises(ValueError, match=words):
        World(DIM, named, None).resolve()


def test_an_instruction_may_replace_the_suites_where_one_task_is_chosen():
    (task,) = World("point_reach", ("red",), None, instruction="touch the ruby").resolve().tasks
    assert (task.id, task.instruction) == ("red", "touch the ruby")
    with pytest.raises(ValueError, match="'touch it' would stand for 2 tasks"):
        World("point_reach", ("red", "green"), None, instruction="touch it").resolve()
    with pytest.raises(ValueError, match="' ' is empty"):
        World("point_reach", ("red",), None, instruction=" ").resolve()


def test_seeds_of_different_uses_never_meet():
    ranges = list(SEED_RANGES.values())
    for i, left in enumerate(ranges):
        for right in ranges[i + 1 :]:
            assert left.stop <= right.start or right.stop <= left.start
    world = World("point_reach", ("red",), max_steps=None)
    seeds = {use: {spec.seed for spec in world.resolve().specs(use, 50)} for use in SEED_RANGES}
    assert not seeds["demo"] & seeds["train"]
    assert not seeds["train"] & seeds["eval"]
    assert not seeds["validation"] & seeds["eval"]
    assert all(seed < 2**31 for seeds in ranges for seed in (seeds.start, seeds.stop - 1))
    with pytest.raises(ValueError, match=r"'test'.*demo, train, eval, validation"):
        seed_for("test", 0)
    with pytest.raises(ValueError, match="100000 is outside"):
        seed_for("demo", 100_000)


def test_the_beginnings_that_recorded_demonstrations_and_results_name_stay():
    assert [seed_for(use, 0) for use in ("demo", "train", "eval")] == [0, 100_000, 1_000_000_000]


def test_a_world_is_written_and_read(tmp_path):
    world = World("point_reach", ("red",), (9,), point_reach.Settings(image_size=12))
    write_world(world.resolve(), tmp_path)
    assert read_world(tmp_path) == world
    told = replace(world, instruction="touch the ruby")
    write_world(told.resolve(), tmp_path)
    assert read_world(tmp_path) == told
    data = json.loads((tmp_path / "world.json").read_text())
    del data["instruction"]  # as earlier versions wrote it
    (tmp_path / "world.json").write_text(json.dumps(data))
    assert read_world(tmp_path) == world
    (tmp_path / "world.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        read_world(tmp_path)
    with pytest.raises(ValueError, match="not a saved policy"):
        read_world(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["--suite", "--env"])
@pytest.mark.parametrize("joined", [False, True])
def test_the_suite_has_two_option_names_beside_its_settings(name, joined):
    chosen = [f"{name}=point_reach"] if joined else [name, "point_reach"]
    options = ["--env.image-size", "12", *chosen, "--tasks", "red", "--instruction", "go"]
    world = parse(Record, options, "record").world
    assert (world.suite, world.tasks, world.instruction) == ("point_reach", ("red",), "go")
    assert world.env == point_reach.Settings(image_size=12)


def test_settings_of_another_suite_of_the_family_are_not_taken_over(tmp_path):
    suite = plugins.load("envs", "gym:CartPole-v1")
    settings = suite.Settings(image=("none",), kwargs=("sutton_barto_reward=true",))
    saved = World("gym:CartPole-v1", ("all",), (9,), settings, "balance")
    write_world(saved.resolve(), tmp_path)
    policy = ["--policy", str(tmp_path)]
    same = parse(Evaluate, policy, "eval").world
    assert (same.env, same.instruction, same.max_steps) == (settings, "balance", (9,))
    other = parse(Evaluate, [*policy, "--env", "gym:Pendulum-v1"], "eval").world
    assert (other.env, other.instruction, other.max_steps) == (suite.Settings(), None, None)


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


@pytest.mark.parametrize(
    ("tasks", "horizons"),
    [
        ([], (150, 100, 100)),
        (["push-v3"], (100,)),
        (["push-v3", "drawer-open-v3"], (100, 150)),
        (["push-v3", "reach-v3"], None),  # reach-v3 has no horizon in this world
    ],
)
def test_named_tasks_keep_their_horizons(tasks, horizons):
    options = ["--tasks", *tasks] if tasks else []
    assert parse(Train, [*options, "--seed", "1"], "train").world.max_steps == horizons
    given = parse(Train, [*options, "--max-steps", "50"], "train").world
    assert given.max_steps == (50,)


def test_tasks_of_a_saved_split_keep_their_horizons(tmp_path):
    write_world(World(DIM, ("dim", "green"), (5, 6, 7)).resolve(), tmp_path)
    policy = ["--policy", str(tmp_path)]

    def horizons(*tasks):
        return parse(Evaluate, [*policy, *(("--tasks", *tasks) if tasks else ())], "eval").world

    assert horizons().max_steps == (5, 6, 7)
    assert horizons("one", "red-dim").max_steps == (7, 5)
    assert horizons("green", "dim").max_steps == (7, 5, 6)
    assert horizons("all").max_steps is None  # red has no horizon in this world


@pytest.mark.parametrize("network", ["vla", "tiny"])
def test_a_new_policy_explores_more_than_a_clone_whatever_its_network(network):
    assert parse(Train, ["--network", network], "train").net.head.std == 0.5
    assert (
        parse(Train, ["--network", network, "--net.head.std", "0.2"], "train").net.head.std == 0.2
    )
    assert parse(Clone, ["--network", network, "--demos", "there"], "sft").net.head.std == 0.07


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--net.head", "lapalce"], "unknown head 'lapalce'; did you mean 'laplace'"),
        (["--net.backbone", "cnov"], "unknown backbone 'cnov'; did you mean 'conv'"),
        (["--network", "pi0", "--net.head", "laplace"], "allowed: flow_sde, flow_noise"),
        (["--network", "action_tokens", "--net.backbone", "conv"], "allowed: vlm"),
    ],
)
def test_an_unknown_kind_of_head_or_backbone_is_refused(words, message):
    with pytest.raises(ValueError, match=message):
        parse(Train, words, "train")


def test_the_settings_of_another_kind_are_no_options(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(Train, ["--net.head", "laplace", "--net.head.denoising-steps", "3"], "train")
    assert stopped.value.code == 2
    assert "--net.head.denoising-steps" in capsys.readouterr().err


def test_a_kind_that_is_given_twice_is_refused():
    with pytest.raises(ValueError, match="--net.head is given twice: flow_noise and laplace"):
        parse(Train, ["--net.head=flow_noise", "--net.head", "laplace"], "train")


@pytest.mark.parametrize("network", ["pi0", "lerobot", "action_tokens"])
def test_defaults_of_a_command_reach_only_networks_that_know_them(network):
    made = parse(Train, ["--network", network], "train")
    kind = plugins.load("policies", network).Config
    assert to_json(plain_settings(network, made.net)) == to_json(kind())


FLAT_NET = {
    **{"head": "laplace", "chunk": 3, "std": 0.1, "std_by_instruction": False, "rho": 0.5},
    **{"episode_share": 0.2, "density": "auto", "denoising_steps": 4, "flow_noise_level": 0.2},
    **{"flow_stochastic": "all", "flow_noise_std": [0.04, 0.08], "hidden": [64, 64]},
    "features": 64,
}
"""Settings of the policy tiny as they stood side by side in a run's ``config.json``."""


def test_a_run_whose_settings_stood_side_by_side_goes_on(tmp_path):
    out = ["--out", str(tmp_path)]
    words = ["--network", "tiny", "--net.head", "laplace", "--net.head.std", "0.1", *out]
    made = parse(Train, [*words, "--net.chunk", "3"], "train")
    config = {"command": "train", **to_json(made), "net": FLAT_NET}
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = parse(Train, ["--resume", *out], "train")
    assert to_json(again.net) == to_json(made.net)
    assert changes(config, again) == {}
    with pytest.raises(ValueError, match="another head: --net.head was laplace, now gaussian"):
        parse(Train, ["--resume", *out, "--net.head", "gaussian"], "train")


@pytest.mark.parametrize(
    ("kind", "head", "expected"),
    [
        ("act", "auto", {"name": "laplace", "rho": 0.5, "std": 0.07}),
        ("diffusion", "auto", {"name": "ddpm", "rho": 0.0, "scored_steps": 10}),
        ("smolvla", "auto", {"name": "flow_sde", "rho": 0.0, "noise_level": 0.5}),
        ("smolvla", "flow_noise", {"name": "flow_noise", "noise_std": [0.08, 0.16]}),
        (None, "auto", None),
    ],
)
def test_a_policy_of_lerobot_whose_settings_stood_side_by_side_is_read(kind, head, expected):
    lerobot = plugins.load("policies", "lerobot")
    about = "" if kind is None else json.dumps({"policy": {"type": kind}})
    old = {
        **{"model": "you/it", "kind": "act", "options": [], "views": [], "adapt": False},
        **{"chunk": 8, "vision_size": 0, "head": head, "std": 0.07, "rho": None},
        **{"episode_share": None, "denoising_steps": 0, "scored_steps": 10, "denoising_std": 0.1},
        **{"flow_noise_level": 0.5, "flow_stochastic": "all", "flow_noise_std": [0.08, 0.16]},
        **{"text": "hash", "text_width": 32, "width": 128, "hidden": [256, 256]},
        **{"pretrained": True, "architecture": about},
    }
    made = from_json(lerobot.Config, lerobot.Policy.upgraded(old))
    assert (made.model, made.chunk, made.text) == ("you/it", 8, "hash")
    found = to_json(made.head) if made.head else None
    assert found == expected or (found and expected and found | expected == found)
    assert to_json(made) == lerobot.Policy.upgraded(old)


def test_head_and_backbone_are_chosen_by_name_and_go_on_so_in_a_resumed_run(tmp_path):
    words = ["--net.head", "flow_sde", "--net.head.stochastic", "one", "--net.backbone.precision"]
    made = parse(Train, [*words, "float32", "--out", str(tmp_path)], "train")
    assert made.net.head.name == "flow_sde"
    assert (made.net.head.stochastic, made.net.backbone.precision) == ("one", "float32")
    (tmp_path / "config.json").write_text(json.dumps(to_json(made)))
    again = parse(Train, ["--resume", "--out", str(tmp_path)], "train")
    assert to_json(again.net) == to_json(made.net)


def test_a_model_that_was_trained_keeps_its_own_deviation() -> None:
    named = ["--network", "lerobot", "--net.model", "you/act_pick"]
    assert parse(Train, named, "train").net.head is None
    laplace = [*named, "--net.head", "laplace"]
    assert parse(Train, laplace, "train").net.head.std == 0.07
