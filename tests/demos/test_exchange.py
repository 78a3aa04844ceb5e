"""Demonstrations to and from other formats, read by the libraries that define them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from tests.demos.test_demo_set import assert_equal
from tests.test_cli import vla_rl
from vla_rl.demos.demo_set import DemoSet
from vla_rl.demos.exchange import formats, importing, minari_format
from vla_rl.demos.exchange.importing import ImportSettings
from vla_rl.storage.files import appearing
from vla_rl.types import Demonstration, EpisodeSpec, Observation, Spaces, Task
from vla_rl.world import World, read_world, write_world

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")

ROOT = Path(__file__).parents[2]
TOYS = """
from dataclasses import dataclass
from vla_rl.types import Spaces, Task

@dataclass(frozen=True)
class Settings:
    image_size: int = 16

def tasks():
    return (Task("toys", "push", "push the puck", 30), Task("toys", "pull", "pull the lever", 30))

def spaces(settings):
    return Spaces(("front", "hand"), settings.image_size, 3, 2)

def make(task, settings):
    raise NotImplementedError
"""
SPACES = Spaces(("front", "hand"), 16, 3, 2)
WORLD = World("toys", ("all",), None)
Box = gymnasium.spaces.Box


@pytest.fixture(autouse=True)
def toys(tmp_path, monkeypatch) -> None:
    """A suite of two views and two tasks; and no datasets of other people."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "toys.py").write_text(TOYS)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.delitem(sys.modules, "toys", raising=False)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def demo(task: Task, seed: int, length: int, success: bool = True) -> Demonstration:
    rng = np.random.default_rng(seed)
    return Demonstration(
        EpisodeSpec(task, seed),
        Observation(
            rng.integers(0, 256, (length, 2, 16, 16, 3), dtype=np.uint8),
            rng.standard_normal((length, 3), dtype=np.float32),
        ),
        rng.uniform(-1, 1, (length, 2)).astype(np.float32),
        rng.standard_normal(length, dtype=np.float32),
        success,
        "expert" if success else "policy",
    )


PUSH = Task("toys", "push", "push the puck", 25)
PULL = Task("toys", "pull", "pull the lever", 25)
MADE = [demo(PUSH, 99_999, 4), demo(PULL, 0, 1, success=False), demo(PUSH, 7, 6)]


@pytest.fixture
def demos(tmp_path) -> DemoSet:
    """Three episodes in two appends, as `vla-rl record` leaves them."""
    made = DemoSet.create(tmp_path / "demos", "toys", {"image_size": 16}, SPACES)
    write_world(World("toys", ("push", "pull"), (25,)).resolve(), made.path)
    made.append(MADE[:2])
    made.append(MADE[2:])
    return made


def same(found: DemoSet, expected: list[Demonstration] = MADE) -> None:
    for left, right in zip(expected, found.load(), strict=True):
        assert_equal(left, right)


# ------------------------------------------------------------------------------------------- Minari


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


def foreign(
    observations: dict[str, Any],
    space: gymnasium.Space,
    actions: list[list[float]],
    bounds: tuple[Any, Any] = (-1, 1),
    infos: dict[str, Any] | None = None,
    dataset_id: str = "lab/arm-v0",
) -> minari.MinariDataset:
    """A dataset of one episode that Minari itself writes, into its own folder."""
    length = len(actions)
    last = [t == length - 1 for t in range(length)]
    low, high = (np.broadcast_to(np.array(b, np.float32), (2,)) for b in bounds)
    episode = EpisodeBuffer(
        observations=observations,
        actions=np.array(actions, np.float32),  # type: ignore[arg-type]
        rewards=[float(t) for t in range(length)],
        terminations=last,
        truncations=[False] * length,
        infos=infos or {},
    )
    return minari.create_dataset_from_buffers(
        dataset_id,
        [episode],
        observation_space=space,
        action_space=Box(low, high, dtype=np.float32),
        author="us",
        author_email="us@example.org",
        code_permalink="none",
        algorithm_name="none",
        description="none",
        jpeg_encoding=False,
    )


def cameras() -> tuple[dict[str, Any], gymnasium.spaces.Dict]:
    """Three observations: an HWC camera, a CHW camera of other sides, numbers, and a mode."""
    front = np.zeros((3, 32, 32, 3), np.uint8)
    front[0, :2, :2, 0] = [[0, 100], [200, 100]]  # one pixel at half the size: 100
    hand = np.full((3, 3, 32, 48), 7, np.uint8)
    seen = {
        "cams": {"front": front, "hand": hand},
        "arm": np.arange(6, dtype=np.float64).reshape(3, 2),
        "grip": np.array([[0.5], [0.25], [0.0]]),
    }
    space = gymnasium.spaces.Dict(
        {
            "cams": gymnasium.spaces.Dict(
                front=Box(0, 255, (32, 32, 3), np.uint8), hand=Box(0, 255, (3, 32, 48), np.uint8)
            ),
            "arm": Box(-9, 9, (2,), np.float64),
            "grip": Box(0, 1, (1,), np.float64),
        }
    )
    return seen, space


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


@pytest.mark.parametrize(
    ("settings", "tasks", "message"),
    [
        (
            ImportSettings(),
            ("push",),
            "does not say which episodes were solved; add --success all",
        ),
        (
            ImportSettings(success="all"),
            ("all",),
            "has no instructions; .* --tasks",
        ),
        (
            ImportSettings(views=("front", "hand")),
            ("push",),
            r"no image 'front': .*front \(32x32x3\)",
        ),
        (
            ImportSettings(views=("cams/hand",)),
            ("push",),
            "names 1 images, but the views .* are front, hand",
        ),
        (ImportSettings(state=("legs",)), ("push",), r"no numbers 'legs': .*arm \(2\), grip \(1\)"),
        (ImportSettings(state=("arm",)), ("push",), "makes 2 numbers, but .* toys has 3 numbers"),
        (ImportSettings(action_low=(0,)), ("push",), "both --action-low and --action-high"),
        (
            ImportSettings(action_low=(0,) * 3, action_high=(1,)),
            ("push",),
            "3 numbers; give one, or 2",
        ),
        (
            ImportSettings(action_low=(1,), action_high=(1,)),
            ("push",),
            r"must lie below .* \[1\]",
        ),
        (
            ImportSettings(success="all", keep_instruction=True),
            ("push",),
            "has 0 instructions; exactly one is needed",
        ),
    ],
)
def test_what_cannot_be_known_is_asked_for(settings, tasks, message):
    source = minari_format.MinariSource(foreign(*cameras(), actions=[[1, 0], [0, -1]]))
    with pytest.raises(ValueError, match=message):
        importing.plan_import(source, replace(WORLD, tasks=tasks).resolve(), settings)


def test_views_and_state_that_have_other_names_are_asked_for():
    seen, space = cameras()
    seen["cams"]["wrist"] = seen["cams"].pop("hand")
    space["cams"].spaces["wrist"] = space["cams"].spaces.pop("hand")
    seen["legs"], space.spaces["legs"] = seen["arm"], space["arm"]
    source = minari_format.MinariSource(foreign(seen, space, [[1, 0], [0, -1]]))
    world = replace(WORLD, tasks=("push",))
    with pytest.raises(ValueError, match="are front, hand, and .*cams/wrist.* with --views"):
        importing.plan_import(source, world.resolve(), ImportSettings(success="all"))
    settings = ImportSettings(success="all", views=("cams/front", "cams/wrist"))
    with pytest.raises(
        ValueError, match=r"has 3 numbers, and .*legs \(2\): give the keys .* --state"
    ):
        importing.plan_import(source, world.resolve(), settings)
    planned = importing.plan_import(
        source, world.resolve(), replace(settings, state=("grip", "legs"))
    )
    assert planned.state == ("grip", "legs")


def test_actions_without_bounds_and_outside_of_them(tmp_path):
    dataset = foreign(*cameras(), actions=[[8, 0], [0, -1]], bounds=(-np.inf, np.inf))
    source = minari_format.MinariSource(dataset)
    world, all_solved = replace(WORLD, tasks=("push",)), ImportSettings(success="all")
    with pytest.raises(ValueError, match="no bounds.* --action-low and --action-high"):
        importing.plan_import(source, world.resolve(), all_solved)
    narrow = replace(all_solved, action_low=(-1.0,), action_high=(1.0,))
    planned = importing.plan_import(source, world.resolve(), narrow)
    with pytest.raises(ValueError, match=r"episode 0 of lab/arm-v0: actions range from \[0.0, -1"):
        importing.import_demos(source, planned, narrow, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert not list(tmp_path.glob(".back-*"))
    clipped = replace(narrow, clip_actions=True)
    (found,) = importing.import_demos(source, planned, clipped, tmp_path / "back").load()
    assert found.actions[0].tolist() == [1, 0]
    wide = replace(all_solved, action_low=(-10, -1), action_high=(10, 1))
    planned = importing.plan_import(source, world.resolve(), wide)
    (found,) = importing.import_demos(source, planned, wide, tmp_path / "wide").load()
    np.testing.assert_allclose(found.actions[:, 0], [0.8, 0])


def test_sentences_find_their_tasks(tmp_path):
    seen, space = cameras()
    dataset = foreign(seen, space, [[1, 0], [0, -1]])
    dataset.storage.update_episode_metadata([{"instruction": "Push  the puck."}])
    source = minari_format.MinariSource(dataset)
    planned = importing.plan_import(source, WORLD.resolve(), ImportSettings(success="all"))
    assert [spec.task.id for spec in planned.specs.values()] == ["push"]
    dataset.storage.update_episode_metadata([{"instruction": "shove"}])
    source = minari_format.MinariSource(dataset)
    with pytest.raises(ValueError, match="match no task: 'shove'.*--assign"):
        importing.plan_import(source, WORLD.resolve(), ImportSettings(success="all"))
    for pairs, message in (
        ({"shovel": "push"}, "did you mean 'shove'"),
        ({"shove": "pushed"}, "unknown task 'pushed'; did you mean 'push'"),
    ):
        with pytest.raises(ValueError, match=message):
            importing.plan_import(
                source, WORLD.resolve(), ImportSettings(success="all", assign=pairs)
            )
    planned = importing.plan_import(
        source, WORLD.resolve(), ImportSettings(success="all", assign={"shove": "pull"})
    )
    assert planned.specs[0].task.instruction == "pull the lever"
    one = replace(WORLD, tasks=("pull",))
    planned = importing.plan_import(
        source, one.resolve(), ImportSettings(success="all", keep_instruction=True)
    )
    assert planned.specs[0].task.instruction == planned.arena.world.instruction == "shove"


def test_episodes_beyond_the_horizon_and_other_robots_are_refused():
    source = minari_format.MinariSource(foreign(*cameras(), actions=[[1, 0], [0, -1]]))
    short = World("toys", ("push",), (1,))
    with pytest.raises(ValueError, match="2 steps, and the horizon of push is 1; add --max-steps"):
        importing.plan_import(source, short.resolve(), ImportSettings(success="all"))
    metaworld = World("metaworld", ("push-v3",), None)
    settings = ImportSettings(views=("cams/front", "cams/hand"), state=("arm", "arm"))
    with pytest.raises(ValueError, match="2 numbers, one of the suite metaworld has 4: .* another"):
        importing.plan_import(source, metaworld.resolve(), settings)


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


# ----------------------------------------------------------------------------------------- commands


@pytest.mark.parametrize("words", [("export", "--to"), ("import", "--from")])
def test_an_occupied_target_is_refused_before_anything_is_read(tmp_path, capsys, words):
    (tmp_path / "note.txt").write_text("mine")
    name, option = words
    assert vla_rl(name, tmp_path / "nothing", option, "minari", "--out", tmp_path) == 2
    assert f"{tmp_path} is not empty; choose another --out" in capsys.readouterr().err


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    def fail() -> None:
        with appearing(tmp_path / "new") as made:
            made.mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [f.name for f in tmp_path.iterdir()] == ["code"]
    (tmp_path / "new").mkdir()
    with appearing(tmp_path / "new") as made:
        made.mkdir()
        (made / "a").write_text("b")
    assert (tmp_path / "new" / "a").read_text() == "b"


def test_sources_that_are_not_there(tmp_path, capsys):
    back = ["--from", "minari", "--out", tmp_path / "back"]
    assert vla_rl("import", "lab/nothing-v0", *back) == 2
    assert "'lab/nothing-v0' is neither the folder" in capsys.readouterr().err
    assert vla_rl("import", tmp_path, *back) == 2
    assert "is not a Minari dataset: it has no metadata.json" in capsys.readouterr().err


def test_a_missing_library_is_named_with_how_to_get_it(demos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    assert vla_rl("export", demos.path, "--to", "lerobot", "--out", tmp_path / "out") == 2
    assert "pip install 'vla-rl[lerobot]'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="unknown format 'rlds'; allowed: lerobot, minari"):
        formats.load_format("rlds")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "minari", "--video"], "--video is an option of --to lerobot"),
        (["--to", "lerobot", "--dataset-id", "a/b-v0"], "--dataset-id is an option of --to minari"),
    ],
)
def test_options_of_the_other_format_are_refused(demos, tmp_path, capsys, options, message):
    assert vla_rl("export", demos.path, "--out", tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err


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


# ------------------------------------------------------------------------------------------ LeRobot


@pytest.fixture
def lerobot(monkeypatch, tmp_path):
    """LeRobot's dataset module, with its caches in the test's folder."""
    found = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return found


def test_what_lerobot_was_given_comes_back_bit_for_bit(lerobot, demos, tmp_path):
    out, back = tmp_path / "lerobot", tmp_path / "back"
    assert vla_rl("export", demos.path, "--to", "lerobot", "--out", out, "--fps", "10") == 0
    assert vla_rl("import", out, "--from", "lerobot", "--out", back) == 0
    again = DemoSet.open(back)
    same(again)
    assert (again.suite, again.settings, again.spaces) == (demos.suite, demos.settings, SPACES)
    assert read_world(back).tasks == ("push", "pull")


def test_lerobot_reads_what_was_written(lerobot, demos, tmp_path):
    out = tmp_path / "lerobot"
    assert vla_rl("export", demos.path, "--to", "lerobot", "--out", out, "--fps", "10") == 0
    theirs = lerobot.LeRobotDataset("local/lerobot", root=out)
    assert (theirs.num_episodes, theirs.num_frames, theirs.fps) == (3, 11, 10)
    assert theirs.meta.info["codebase_version"] == "v3.0"
    assert theirs.meta.camera_keys == ["observation.images.front", "observation.images.hand"]
    assert sorted(theirs.meta.tasks.index) == ["pull the lever", "push the puck"]
    assert [theirs.meta.episodes[i]["length"] for i in range(3)] == [4, 1, 6]
    parts = ("info.json", "stats.json", "tasks.parquet", "episodes/chunk-000/file-000.parquet")
    for name in ("data/chunk-000/file-000.parquet", *(f"meta/{part}" for part in parts)):
        assert (out / name).is_file()
    assert not (out / "images").exists()
    rows = [(episode, t) for episode, made in enumerate(MADE) for t in range(len(made))]
    for index, (episode, t) in enumerate(rows):
        item, made = theirs[index], MADE[episode]
        for v, view in enumerate(("front", "hand")):
            pixels = (item[f"observation.images.{view}"].permute(1, 2, 0) * 255).round().byte()
            np.testing.assert_array_equal(pixels.numpy(), made.obs.images[t, v])
        np.testing.assert_array_equal(item["observation.state"].numpy(), made.obs.state[t])
        np.testing.assert_array_equal(item["action"].numpy(), made.actions[t])
        assert item["next.reward"].item() == made.reward[t]
        last = t == len(made) - 1
        assert item["next.done"].item() is last
        assert item["next.success"].item() is (last and made.success)
        assert item["task"] == made.spec.task.instruction
        assert item["timestamp"].item() == pytest.approx(t / 10)
    every = np.concatenate([made.actions for made in MADE])
    np.testing.assert_allclose(theirs.meta.stats["action"]["mean"], every.mean(0), atol=1e-6)
    chunks = lerobot.LeRobotDataset(
        "local/lerobot", root=out, delta_timestamps={"action": [0, 0.1, 0.2]}
    )
    np.testing.assert_array_equal(chunks[5]["action"].numpy(), MADE[2].actions[:3])


def lerobot_set(lerobot, root: Path, actions: np.ndarray, extra: bool = False) -> None:
    """A dataset that LeRobot itself writes: two episodes of two frames and other names."""
    picture = {"dtype": "image", "shape": (32, 48, 3), "names": ["height", "width", "channels"]}
    features = {
        "observation.images.front": picture,
        "observation.images.wrist": picture,
        "observation.state": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
        "action": {"dtype": "float32", "shape": (2,), "names": ["dx", "dy"]},
    }
    made = lerobot.LeRobotDataset.create("local/arm", 30, features, root=root, use_videos=False)
    for episode, task in enumerate(("Push the puck", "fly away")):
        for t in range(2):
            made.add_frame(
                {
                    "observation.images.front": np.full((32, 48, 3), 10 * episode + t, np.uint8),
                    "observation.images.wrist": np.full((32, 48, 3), 200 + t, np.uint8),
                    "observation.state": np.full(3, t, np.float32),
                    "action": actions[t],
                    "task": task,
                }
            )
        made.save_episode()
    made.finalize()


def test_a_foreign_lerobot_dataset_by_hand(lerobot, tmp_path, capsys):
    root, back = tmp_path / "arm", tmp_path / "back"
    lerobot_set(lerobot, root, np.array([[5, -1], [0, 1]], np.float32))
    words = ["import", root, "--from", "lerobot", "--out", back, "--env", "toys"]
    errors = []
    for option in (
        ["--views", "observation.images.front", "observation.images.wrist"],
        ["--action-low", "-10", "-1", "--action-high", "10", "1"],
        ["--success", "all"],
        ["--assign", "Push the puck", "push"],
        [],
    ):
        status = vla_rl(*words)
        errors.append(capsys.readouterr().err)
        words += option
    assert status == 0
    assert "give the matching keys with --views" in errors[0]
    assert "arm: actions range from [0.0, -1.0] to [5.0, 1.0], outside of [-1.0]" in errors[1]
    assert "add --success all" in errors[2]
    assert "sentences of no task of the suite: 'fly away'" in errors[3]
    (found,) = DemoSet.open(back).load()
    assert found.spec == EpisodeSpec(Task("toys", "push", "push the puck", 30), 0)
    np.testing.assert_allclose(found.actions, [[0.5, -1], [0, 1]])
    assert found.obs.images[:, :, 3, 3, 0].tolist() == [[0, 200], [1, 201]]
    np.testing.assert_array_equal(found.obs.state, [[0] * 3, [1] * 3])
    assert found.reward.tolist() == [0, 0]


def test_video_comes_back_nearly_as_it_was(lerobot, tmp_path):
    size = 64
    spaces = replace(SPACES, image_size=size)
    demos = DemoSet.create(tmp_path / "demos", "toys", {"image_size": size}, spaces)
    write_world(World("toys", ("push",), (25,)).resolve(), demos.path)
    ramp = np.linspace(0, 255, size).astype(np.uint8)
    images = np.broadcast_to(ramp[:, None, None], (8, 2, size, size, 3)).copy()
    base = demo(PUSH, 1, 8)
    demos.append([replace(base, obs=Observation(images, base.obs.state))])
    out, back = tmp_path / "video", tmp_path / "back"
    assert vla_rl("export", demos.path, "--to", "lerobot", "--out", out, "--video") == 0
    assert len(list(out.glob("videos/*/chunk-000/file-000.mp4"))) == 2
    larger = ["--env.image-size", str(size)]
    assert vla_rl("import", out, "--from", "lerobot", "--out", back, *larger) == 0
    (found,) = DemoSet.open(back).load()
    np.testing.assert_array_equal(found.actions, base.actions)
    assert np.abs(found.obs.images.astype(int) - images).mean() < 4


def test_lerobot_folders_that_cannot_be_read_are_explained(lerobot, demos, tmp_path, capsys):
    out = tmp_path / "lerobot"
    assert vla_rl("export", demos.path, "--to", "lerobot", "--out", out) == 0
    words = ["import", out, "--from", "lerobot", "--out", tmp_path / "back"]
    ours, info, data = (out / n for n in ("meta/vla_rl.json", "meta/info.json", "data"))
    told = json.loads(ours.read_text())
    ours.write_text(json.dumps(told | {"episodes": told["episodes"][:2]}))
    assert vla_rl(*words) == 2
    assert "does not match the episodes of the dataset; delete it" in capsys.readouterr().err
    (data / "chunk-000").rename(tmp_path / "chunk-000")
    assert vla_rl(*words) == 2
    assert "is not whole: data/chunk-000/file-000.parquet is missing" in capsys.readouterr().err
    data.rmdir()
    assert vla_rl(*words) == 2
    assert "is not whole: data is missing" in capsys.readouterr().err
    info.write_text(info.read_text().replace("v3.0", "v2.1"))
    assert vla_rl(*words) == 2
    assert "is a LeRobotDataset v2.1, and v3.0 is read; convert it" in capsys.readouterr().err
    info.unlink()
    assert vla_rl(*words) == 2
    assert "not a LeRobotDataset" in capsys.readouterr().err


def test_an_empty_set_and_a_clock_that_stands_still_are_refused(lerobot, demos, tmp_path, capsys):
    empty = DemoSet.create(tmp_path / "empty", "toys", {}, SPACES)
    words = ["--to", "lerobot", "--out", tmp_path / "out"]
    assert vla_rl("export", empty.path, *words) == 2
    assert "has no episodes to export" in capsys.readouterr().err
    assert vla_rl("export", demos.path, *words, "--fps", "0") == 2
    assert "fps must be at least 1, got 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
