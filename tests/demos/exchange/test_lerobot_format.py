"""Demonstrations to and from LeRobotDataset, read by LeRobot itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.demos.exchange.helpers import MADE, PUSH, SPACES, demo, same
from tests.test_cli import vla_rl
from vla_rl.demos.demo_set import DemoSet
from vla_rl.types import EpisodeSpec, Observation, Task
from vla_rl.world import World, read_world, write_world

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")


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
