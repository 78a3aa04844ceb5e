from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import minari
import numpy as np
import pytest

from tests.demos.helpers import assert_equal
from vla_rl.demos.chunks import ChunkDataset, chunk_targets
from vla_rl.demos.demo_set import DemoSet
from vla_rl.types import Demonstration, EpisodeSpec, Observation, Spaces, Task

SPACES = Spaces(views=("front", "hand"), image_size=8, state_dim=3, action_dim=2)
ROOT = Path(__file__).parents[2]
SETTINGS = {"image_size": 8, "cameras": ["front", "hand"]}


def demo(
    task: str, seed: int, length: int, success: bool = True, source: str = "expert"
) -> Demonstration:
    rng = np.random.default_rng(seed)
    return Demonstration(
        spec=EpisodeSpec(Task("toys", task, f"do « {task} »", 50), seed),
        obs=Observation(
            rng.integers(0, 256, (length, 2, 8, 8, 3), dtype=np.uint8),
            rng.standard_normal((length, 3), dtype=np.float32),
        ),
        actions=rng.uniform(-1, 1, (length, 2)).astype(np.float32),
        reward=rng.standard_normal(length, dtype=np.float32),
        success=success,
        source=source,
    )


@pytest.fixture
def demos(tmp_path: Path) -> DemoSet:
    return DemoSet.create(tmp_path / "demos", "toys", SETTINGS, SPACES)


def test_what_was_appended_comes_back_bit_for_bit_in_order(demos: DemoSet) -> None:
    made = [demo("push", 99_999, 4), demo("pull", 0, 1, False, "policy"), demo("push", 7, 6)]
    demos.append(made[:1])
    demos.append(made[1:])
    again = DemoSet.open(demos.path)
    assert len(again) == 3
    assert (again.suite, again.settings, again.spaces) == ("toys", SETTINGS, SPACES)
    for left, right in zip(made, again.load(), strict=True):
        assert_equal(left, right)
    assert [d.spec.seed for d in again.load(["pull"])] == [0]
    assert again.load(["throw"]) == []
    assert again.specs() == [d.spec for d in made]


def test_an_empty_set_and_an_empty_append(demos: DemoSet) -> None:
    demos.append([])
    assert len(DemoSet.open(demos.path)) == 0
    assert demos.load() == []
    assert demos.summary() == []


def test_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    DemoSet.create("some/demos", "toys", SETTINGS, SPACES).append([demo("a", 1, 4)])
    assert len(DemoSet.open("some/demos").load()) == 1


def test_summary(demos: DemoSet) -> None:
    demos.append([demo("push", 1, 4), demo("push", 2, 2, False, "policy"), demo("pull", 3, 5)])
    pull, push = demos.summary()
    assert (pull.task_id, pull.episodes, pull.steps, pull.success) == ("pull", 1, 5, 1.0)
    assert (push.episodes, push.steps, push.success, push.mean_length) == (2, 6, 0.5, 3.0)
    assert push.sources == {"expert": 1, "policy": 1}
    assert push.instruction == "do « push »"


def test_minari_opens_it_with_its_own_reader(demos: DemoSet) -> None:
    made = [demo("push", seed, 4) for seed in range(3)]
    demos.append(made[:2])
    demos.append(made[2:])
    theirs = minari.MinariDataset(demos.path)
    assert (theirs.total_episodes, theirs.total_steps) == (3, 12)
    assert theirs.spec.dataset_id == "vla-rl/toys-v0"
    (episode,) = theirs.sample_episodes(1)
    assert episode.observations["images"].shape == (5, 2, 8, 8, 3)  # one more than actions
    np.testing.assert_array_equal(episode.actions, made[episode.id].actions)
    assert "infos=dict" in repr(episode)
    assert theirs.observation_space["images"].shape == (2, 8, 8, 3)
    (metadata,) = theirs.storage.get_episode_metadata([2])
    assert (metadata["id"], metadata["seed"], metadata["task_id"]) == (2, 2, "push")


def test_similar_frames_are_compressed(tmp_path: Path) -> None:
    spaces = Spaces(("front",), 64, 3, 2)
    demos = DemoSet.create(tmp_path / "demos", "toys", {}, spaces)
    base = demo("push", 1, 50)
    still = np.zeros((50, 1, 64, 64, 3), np.uint8)
    demos.append([Demonstration(base.spec, Observation(still, base.obs.state), base.actions,
                                base.reward, True)])  # fmt: skip
    size = sum(f.stat().st_size for f in demos.path.glob("episodes_*.hdf5"))
    assert size < still.nbytes / 10


def test_a_suite_without_cameras(tmp_path: Path) -> None:
    demos = DemoSet.create(tmp_path / "demos", "toys", {}, Spaces((), 8, 3, 2))
    base = demo("push", 1, 4)
    blind = Demonstration(base.spec, Observation(base.obs.images[:, :0], base.obs.state),
                          base.actions, base.reward, True)  # fmt: skip
    demos.append([blind])
    assert_equal(blind, demos.load()[0])


@pytest.mark.parametrize(
    ("other", "suite", "named"),
    [
        (Spaces(("front", "hand"), 8, 3, 7), "toys", "action_dim is 2 .* but 7"),
        (Spaces(("front", "hand"), 16, 3, 2), "toys", "image_size is 8 .* but 16"),
        (Spaces(("hand", "front"), 8, 3, 2), "toys", "views is .'front', 'hand'.* but .'hand'"),
        (Spaces(("front", "hand"), 8, 39, 2), "toys", "state_dim is 3 .* but 39"),
        (SPACES, "metaworld", "suite is 'toys' .* but 'metaworld'"),
    ],
)
def test_demonstrations_of_other_spaces_are_refused(
    demos: DemoSet, other: Spaces, suite: str, named: str
) -> None:
    demos.check(SPACES, "toys")
    with pytest.raises(ValueError, match=named):
        demos.check(other, suite)


def test_a_demonstration_that_does_not_fit_is_refused_whole(demos: DemoSet) -> None:
    good, short = demo("push", 1, 4), demo("push", 2, 4)
    wide = Demonstration(short.spec, short.obs, np.zeros((4, 7), np.float32), short.reward, True)
    with pytest.raises(ValueError, match=r"actions have shape \(4, 7\).* needs \(4, 2\)"):
        demos.append([good, wide])
    wild = Demonstration(short.spec, short.obs, short.actions + 2, short.reward, True)
    with pytest.raises(ValueError, match=r"actions must lie in \[-1, 1\]"):
        demos.append([good, wild])
    foreign = Demonstration(EpisodeSpec(Task("other", "a", "b", 1), 0), short.obs, short.actions,
                            short.reward, True)  # fmt: skip
    with pytest.raises(ValueError, match="other/a#0 is not of suite 'toys'"):
        demos.append([foreign])
    assert len(demos) == 0


def test_create_refuses_an_occupied_folder_and_strange_settings(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        DemoSet.create(tmp_path, "toys", {}, SPACES)
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        DemoSet.create(tmp_path / "new", "toys", {"camera": object()}, SPACES)
    assert [f.name for f in tmp_path.iterdir()] == ["note.txt"]


def test_missing_foreign_and_damaged_folders_are_explained(demos: DemoSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no demo set at"):
        DemoSet.open(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is not a demo set: it has no metadata.json"):
        DemoSet.open(tmp_path)
    demos.append([demo("push", 1, 40), demo("push", 2, 40)])

    def damaged(how: Callable[[Path], object]) -> Path:
        folder = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
        shutil.copytree(demos.path, folder)
        how(folder)
        return folder

    def truncate(name: str) -> Callable[[Path], object]:
        return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)

    def strip(folder: Path) -> None:
        metadata = json.loads((folder / "metadata.json").read_text())
        del metadata["vla_rl"]
        (folder / "metadata.json").write_text(json.dumps(metadata))

    cases: list[tuple[Callable[[Path], object], str]] = [
        (strip, "a Minari dataset that vla-rl did not write"),
        (truncate("metadata.json"), r"metadata.json is damaged .*restore it"),
        (truncate("main_data.hdf5"), "is damaged: .*Restore"),
        (truncate("episodes_000000.hdf5"), "is damaged: .*Restore"),
        (lambda f: (f / "episodes_000000.hdf5").unlink(), "is damaged: .*episodes_000000.hdf5"),
        (lambda f: (f / "main_data.hdf5").unlink(), "is damaged: .*main_data.hdf5"),
    ]
    for how, message in cases:
        with pytest.raises(ValueError, match=f"(?s){message}"):
            DemoSet.open(damaged(how))


def test_too_little_space_is_refused_before_anything_is_written(
    demos: DemoSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    demos.append([demo("push", 1, 4)])
    usage = shutil.disk_usage(demos.path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"1.0 MB free, but 1 episodes may need .* 1 earlier"):
        demos.append([demo("push", 2, 4)])
    assert len(DemoSet.open(demos.path).load()) == 1


FULL_DISK = """
import os, resource, sys
from tests.demos.test_demo_set import demo
from vla_rl.demos.demo_set import DemoSet
demos = DemoSet.open(sys.argv[1])
demos.append([demo("push", 1, 4)])
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    demos.append([demo("push", 2, 400)])
except OSError as error:
    print(error, flush=True)
os._exit(0)  # HDF5 may crash when it closes a file that it could not write
"""


def test_a_write_that_fails_leaves_the_earlier_episodes(demos: DemoSet) -> None:
    done = run(FULL_DISK, demos.path)
    assert "could not append 1 episodes" in done
    assert "The 1 earlier episodes are intact" in done
    assert len(DemoSet.open(demos.path).load()) == 1
    demos.append([demo("push", 2, 400)])
    assert len(demos.load()) == 2


APPEND_FOREVER = """
import sys
from tests.demos.test_demo_set import demo
from vla_rl.demos.demo_set import DemoSet
demos = DemoSet.open(sys.argv[1])
while True:
    demos.append([demo("push", len(demos), 20), demo("pull", len(demos) + 1, 20)])
    print(len(demos), flush=True)
"""


def run(program: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, cwd=ROOT
    )
    return done.stdout


def test_a_kill_in_the_middle_of_an_append_loses_nothing(demos: DemoSet) -> None:
    rng = np.random.default_rng(0)
    said = 0
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", APPEND_FOREVER, str(demos.path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(float(rng.uniform(0, 0.2)))
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().split()
        process.wait()
        said = max([said, *map(int, lines)])
        found = DemoSet.open(demos.path).load()
        assert len(found) >= said
        assert len(found) % 2 == 0  # an append is whole
        for i in range(0, len(found), 2):
            assert_equal(found[i], demo("push", i, 20))
        theirs = minari.MinariDataset(demos.path)
        assert theirs.total_steps == sum(len(d) for d in found)
    demos.append([demo("push", 1, 4)])
    assert not list(demos.path.glob(".append-*"))


@pytest.mark.parametrize("step", ["episodes_", "main_data", "metadata"])
def test_a_kill_between_the_replacements_is_repaired_by_the_next_append(
    demos: DemoSet, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    demos.append([demo("push", 0, 4)])
    replace = os.replace

    def dying(source: Path, target: Path) -> None:
        if target.name.startswith(step):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        demos.append([demo("push", 1, 4), demo("push", 2, 4)])
    monkeypatch.undo()
    assert len(DemoSet.open(demos.path).load()) == 1
    demos.append([demo("pull", 3, 6)])
    again = DemoSet.open(demos.path)
    assert [d.spec.seed for d in again.load()] == [0, 3]
    assert minari.MinariDataset(demos.path).total_steps == 10


def test_importing_it_does_not_import_torch() -> None:
    program = (
        "import sys, vla_rl.demos.demo_set; print(sorted(m for m in sys.modules if m == 'torch'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------------------ training batches


def test_chunk_targets_by_hand() -> None:
    index, mask = chunk_targets([demo("a", 0, 3), demo("b", 1, 2)], chunk=2)
    np.testing.assert_array_equal(index, [[0, 1], [1, 2], [2, 2], [3, 4], [4, 4]])
    t, f = True, False
    np.testing.assert_array_equal(mask, [[t, t], [t, t], [t, f], [t, t], [t, f]])


def test_a_chunk_longer_than_the_episode_is_masked() -> None:
    index, mask = chunk_targets([demo("a", 0, 2)], chunk=4)
    np.testing.assert_array_equal(index, [[0, 1, 1, 1], [1, 1, 1, 1]])
    np.testing.assert_array_equal(mask.sum(axis=1), [2, 1])


def test_chunk_targets_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        chunk_targets([demo("a", 0, 2)], 0)
    with pytest.raises(ValueError, match="no demonstrations"):
        chunk_targets([], 2)


def test_rows_of_a_batch_belong_together() -> None:
    demos = [demo("a", 0, 3), demo("b", 1, 2), demo("a", 2, 4)]
    data = ChunkDataset(demos, chunk=3)
    assert len(data) == 9
    assert data.sentences == ("do « a »", "do « b »")
    batch = data.take(np.array([4, 7]))  # the last of b, the third of the second a
    assert batch.instruction == ("do « b »", "do « a »")
    np.testing.assert_array_equal(batch.obs.state, [demos[1].obs.state[1], demos[2].obs.state[2]])
    np.testing.assert_array_equal(batch.actions[1][:2], demos[2].actions[2:4])
    np.testing.assert_array_equal(batch.mask, [[1, 0, 0], [1, 1, 0]])


def test_sampling_can_balance_tasks_and_repeats_with_its_seed() -> None:
    data = ChunkDataset([demo("a", 0, 90), demo("b", 1, 10)], chunk=2)
    balanced = data.sample(np.random.default_rng(0), 4000, balance_tasks=True)
    plain = data.sample(np.random.default_rng(0), 4000, balance_tasks=False)
    assert balanced.instruction.count("do « b »") / 4000 == pytest.approx(0.5, abs=0.04)
    assert plain.instruction.count("do « b »") / 4000 == pytest.approx(0.1, abs=0.03)
    assert set(balanced.rows) == set(range(100))
    again = data.sample(np.random.default_rng(0), 4000, balance_tasks=True)
    np.testing.assert_array_equal(again.rows, balanced.rows)
