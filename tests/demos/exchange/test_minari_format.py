"""Demonstrations to and from Minari, read by Minari itself."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from tests.demos.exchange.helpers import MADE, SPACES, TOYS, WORLD, Box, cameras, foreign, same
from tests.test_cli import vla_rl
from vla_rl.demos.demo_set import DemoSet
from vla_rl.demos.exchange import importing, minari_format
from vla_rl.demos.exchange.importing import ImportSettings
from vla_rl.types import EpisodeSpec, Task
from vla_rl.world import World, read_world

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")
ROOT = Path(__file__).parents[3]


def test_a_copy_is_found_by_its_id_and_sampled_by_minari(demos, tmp_path, monkeypatch):
    out = tmp_path / "datasets"
    assert vla_rl("export", demos.path, "--to", "minari", "--out", out) == 0
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(out))
    assert list(minari.list_local_datasets()) == ["vla-rl/toys-v0"]
    theirs = minari.load_dataset("vla-rl/toys-v0")
    assert (theirs.total_episodes, theirs.total_steps) == (3, 11)
    theirs.set_seed(0)
    sampled = {episode.id: episode for episode in theirs.sample_episodes(3)}
    for i, made in enumerate(MADE):
        np.testing.assert_array_equal(sampled[i].actions, made.actions)
        np.testing.assert_array_equal(sampled[i].observations["images"][:-1], made.obs.images)
        assert bool(sampled[i].terminations[-1]) is made.success
    same(DemoSet.open(out / "vla-rl" / "toys-v0" / "data"))


def test_a_copy_may_have_an_id_of_ones_own(demos, tmp_path, monkeypatch):
    out = tmp_path / "datasets"
    with pytest.raises(ValueError, match="'two words' is not a Minari dataset id"):
        minari_format.export(demos, out, "two words")
    assert not out.exists()
    assert minari_format.export(demos, out, "lab/toys/push-v3") == "lab/toys/push-v3"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(out))
    assert minari.load_dataset("lab/toys/push-v3").total_episodes == 3


@pytest.mark.parametrize("by_id", [True, False])
def test_what_minari_was_given_comes_back_bit_for_bit(demos, tmp_path, monkeypatch, by_id):
    out, back = tmp_path / "datasets", tmp_path / "back"
    minari_format.export(demos, out)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(out))
    source = "vla-rl/toys-v0" if by_id else out / "vla-rl" / "toys-v0"
    world = ["--suite", "toys"]
    assert vla_rl("import", source, "--from", "minari", "--out", back, *world) == 0
    again = DemoSet.open(back)
    same(again)
    assert (again.suite, again.settings, again.spaces) == (demos.suite, demos.settings, SPACES)
    assert read_world(back).tasks == ("push", "pull")


def test_our_own_episodes_of_some_tasks_at_another_size(demos, tmp_path):
    back = tmp_path / "back"
    options = ["--tasks", "push", "--env.image-size", "8", "--instruction", "shove it"]
    assert vla_rl("import", demos.path, "--from", "minari", "--out", back, *options) == 0
    again = DemoSet.open(back).load()
    assert [d.spec.seed for d in again] == [99_999, 7]
    assert {d.spec.task.instruction for d in again} == {"shove it"}
    assert read_world(back).instruction == "shove it"
    blocks = MADE[0].obs.images.reshape(4, 2, 8, 2, 8, 2, 3).mean(axis=(3, 5))
    assert np.abs(again[0].obs.images - blocks).max() <= 1  # rounded by rows and by columns


# ------------------------------------------------------------------------- datasets of other people


def test_a_foreign_dataset_by_hand(tmp_path):
    told = {"success": np.array([False, False, True])}
    foreign(*cameras(), actions=[[3, 0], [0, -2]], bounds=([0, -2], [4, 2]), infos=told)
    back = tmp_path / "back"
    options = ["--suite", "toys", "--tasks", "pull"]
    assert vla_rl("import", "lab/arm-v0", "--from", "minari", "--out", back, *options) == 0
    (found,) = DemoSet.open(back).load()
    assert found.spec == EpisodeSpec(Task("toys", "pull", "pull the lever", 30), 0)
    assert (found.success, found.source) == (True, "imported:lab/arm-v0")
    np.testing.assert_array_equal(found.actions, np.array([[0.5, 0], [-1, -1]], np.float32))
    np.testing.assert_array_equal(found.obs.state, [[0, 1, 0.5], [2, 3, 0.25]])
    np.testing.assert_array_equal(found.reward, [0, 1])
    assert found.obs.images.shape == (2, 2, 16, 16, 3)
    assert found.obs.images[0, 0, 0, 0].tolist() == [100, 0, 0]
    assert (found.obs.images[:, 1] == 7).all()
    assert (read_world(back).tasks, read_world(back).max_steps) == (("pull",), (30,))


def test_a_policy_is_cloned_from_foreign_demonstrations(tmp_path):
    told = {"is_success": np.array([False, False, True])}
    foreign(*cameras(), actions=[[1, 0], [0, -1]], infos=told)
    options = ["--suite", "toys", "--tasks", "push", "--instruction", "shove the thing"]
    back = tmp_path / "back"
    assert vla_rl("import", "lab/arm-v0", "--from", "minari", "--out", back, *options) == 0
    clone = ["--network", "tiny", "--net.chunk", "2", "--sft.steps", "2", "--out", tmp_path / "sft"]
    assert vla_rl("sft", "--demos", back, *clone) == 0
    assert read_world(tmp_path / "sft" / "policy").instruction == "shove the thing"
    assert vla_rl("sft", "--demos", back, *clone, "--env.image-size", "32") == 2  # DemoSet.check


def test_an_environment_of_ours_collected_by_minari(tmp_path):
    """Views that are stacked in one array are named by their number."""
    space = gymnasium.spaces.Dict(
        images=Box(0, 255, (2, 16, 16, 3), np.uint8), state=Box(-9, 9, (3,), np.float32)
    )
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 16, 16, 3), dtype=np.uint8)
    seen = {"images": images, "state": np.ones((3, 3), np.float32)}
    dataset = foreign(seen, space, [[1, 0], [0, -1]])
    source = minari_format.MinariSource(dataset)
    settings = ImportSettings(views=("images/1", "images/0"), success="none")
    planned = importing.plan_import(source, replace(WORLD, tasks=("push",)).resolve(), settings)
    (found,) = importing.import_demos(source, planned, settings, tmp_path / "back").load()
    np.testing.assert_array_equal(found.obs.images, images[:2, ::-1])
    assert not found.success


def test_a_bare_box_of_numbers_for_a_suite_without_cameras(tmp_path):
    seen = np.arange(9, dtype=np.float32).reshape(3, 3)
    dataset = foreign(seen, Box(-9, 9, (3,), np.float32), [[1, 0], [0, -1]])  # type: ignore[arg-type]
    (tmp_path / "code" / "blind.py").write_text(
        TOYS.replace('("front", "hand")', "()").replace("toys", "blind")
    )
    source = minari_format.MinariSource(dataset)
    world, settings = World("blind", ("push",), None), ImportSettings(success="all")
    (found,) = importing.import_demos(
        source,
        importing.plan_import(source, world.resolve(), settings),
        settings,
        tmp_path / "back",
    ).load()
    np.testing.assert_array_equal(found.obs.state, seen[:2])


def test_discrete_actions_are_refused():
    dataset = minari.create_dataset_from_buffers(
        "lab/discrete-v0",
        [EpisodeBuffer(observations=[0.0, 1.0], actions=[1], rewards=[0.0], terminations=[True],
                       truncations=[False])],  # fmt: skip
        observation_space=Box(0, 1, ()),
        action_space=gymnasium.spaces.Discrete(2),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"action space Discrete\(2\); it must be a Box"):
        minari_format.MinariSource(dataset)


def test_reading_minari_does_not_import_torch():
    program = (
        "import sys, vla_rl.demos.exchange.minari_format, vla_rl.demos.exchange.importing as a;"
    )
    done = subprocess.run(
        [sys.executable, "-c", program + "print('torch' in sys.modules, 'lerobot' in sys.modules)"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert done.stdout.split() == ["False", "False"]
