"""LeRobotDataset v3 folders, read and written by LeRobot's own library.

Images are written losslessly compressed inside the parquet files, or as video, which is smaller but
lossy. What the format cannot express (seeds, horizons, sources) is in ``meta/vla_rl.json``, which
other readers ignore; with that file, a set can be imported again unchanged.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset, LeRobotDatasetMetadata
from numpy.typing import NDArray

from vla_rl.demos.demo_set import DemoSet
from vla_rl.demos.exchange.source import Bounds, Header, SourceEpisode, as_matrix
from vla_rl.gym_spaces import resized, rgb
from vla_rl.storage.files import appearing
from vla_rl.types import Demonstration, EpisodeSpec, Spaces, Task

VERSION = "v3.0"
_OURS = Path("meta", "vla_rl.json")
_WORLD = "world.json"
_INFO = Path("meta", "info.json")
_NEEDED = (_INFO, Path("meta", "tasks.parquet"), Path("meta", "episodes"), Path("data"))
_IMAGES, _STATE, _ACTION = "observation.images.", "observation.state", "action"
_REWARD, _DONE, _SUCCESS = "next.reward", "next.done", "next.success"
_COUNTERS = {"timestamp", "frame_index", "episode_index", "index", "task_index"}
# It ships with LeRobot, whose other video reader needs FFmpeg's libraries on the machine.
_VIDEO_READER = "pyav"


# ------------------------------------------------------------------------------------------- export


def export(
    demos: DemoSet,
    out: Path,
    fps: int,
    video: bool = False,
    on_episode: Callable[[], None] = lambda: None,
) -> None:
    """Write a set as a LeRobotDataset v3 into a new folder.

    Features: ``observation.images.<view>``, ``observation.state``, ``action`` (in [-1, 1]),
    ``next.reward``, ``next.done``, ``next.success``; the task is the instruction.

    Args:
        demos: The demonstrations to write.
        out: The new folder.
        fps: Steps per second, for timestamps; demonstrations themselves have none.
        video: Encode images as video, which is lossy.
        on_episode: Called after every episode.

    Raises:
        FileExistsError: If the folder holds anything.
        ValueError: If the set is empty, or ``fps`` is below 1.
    """
    if fps < 1:
        raise ValueError(f"fps must be at least 1, got {fps}")
    if not len(demos):
        raise ValueError(f"{demos.path} has no episodes to export")
    with appearing(out) as folder, _quiet():
        dataset = LeRobotDataset.create(
            repo_id=f"local/{out.name}",
            fps=fps,
            features=_features(demos.spaces, "video" if video else "image"),
            root=folder,
            robot_type=demos.suite,
            use_videos=video,
        )
        episodes = demos.load()
        for demonstration in episodes:
            for frame in _frames(demonstration, demos.spaces):
                dataset.add_frame(frame)
            dataset.save_episode(parallel_encoding=False)
            on_episode()
        dataset.finalize()
        shutil.rmtree(folder / "images", ignore_errors=True)  # the writer's empty scratch folders
        (folder / _OURS).write_text(json.dumps(_ours(demos, episodes), indent=1) + "\n")
        if (demos.path / _WORLD).exists():
            shutil.copyfile(demos.path / _WORLD, folder / _WORLD)


def _features(spaces: Spaces, kind: str) -> dict[str, dict[str, Any]]:
    """Features of a dataset of these spaces, in LeRobot's notation."""
    side = spaces.image_size
    picture = {
        "dtype": kind,
        "shape": (side, side, 3),
        "names": ["height", "width", "channels"],
    }
    features: dict[str, dict[str, Any]] = {_image_key(v): dict(picture) for v in spaces.views}
    if spaces.state_dim:
        features[_STATE] = _vector("float32", spaces.state_dim)
    features[_ACTION] = _vector("float32", spaces.action_dim)
    features[_REWARD] = _vector("float32", 1)
    features[_DONE] = _vector("bool", 1)
    features[_SUCCESS] = _vector("bool", 1)
    return features


def _vector(dtype: str, size: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": (size,), "names": None}


def _image_key(view: str) -> str:
    return _IMAGES + view.replace("/", ".")  # LeRobot allows no slash


def _frames(demonstration: Demonstration, spaces: Spaces) -> Iterator[dict[str, Any]]:
    last = len(demonstration) - 1
    for t in range(len(demonstration)):
        frame: dict[str, Any] = {
            _image_key(view): demonstration.obs.images[t, v] for v, view in enumerate(spaces.views)
        }
        if spaces.state_dim:
            frame[_STATE] = demonstration.obs.state[t]
        yield frame | {
            _ACTION: demonstration.actions[t],
            _REWARD: demonstration.reward[t : t + 1],
            _DONE: np.array([t == last]),
            _SUCCESS: np.array([t == last and demonstration.success]),
            "task": demonstration.spec.task.instruction,
        }


def _ours(demos: DemoSet, episodes: Sequence[Demonstration]) -> dict[str, Any]:
    """Content of ``meta/vla_rl.json``."""
    return {
        "suite": demos.suite,
        "episodes": [
            {
                "length": len(demonstration),
                "task_id": demonstration.spec.task.id,
                "max_steps": demonstration.spec.task.max_steps,
                "seed": demonstration.spec.seed,
                "source": demonstration.source,
            }
            for demonstration in episodes
        ],
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress bars and encoder messages of every episode, and warnings on bools."""
    os.environ.setdefault("SVT_LOG", "1")  # errors only
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Converting input from bool", RuntimeWarning)
            yield
    finally:
        if shown:
            datasets.enable_progress_bars()


# ------------------------------------------------------------------------------------------- import


def open_source(name: str) -> LeRobotSource:
    """Open a LeRobotDataset v3 by its folder.

    Raises:
        ValueError: If there is none, its version is not supported, or files are missing.
    """
    folder = Path(name).resolve()
    if not (folder / _INFO).is_file():
        raise ValueError(
            f"{folder} is not a LeRobotDataset: it has no {_INFO}; download one from the Hugging "
            "Face hub with `hf download --repo-type dataset REPO --local-dir FOLDER`"
        )
    version = json.loads((folder / _INFO).read_text()).get("codebase_version")
    if version != VERSION:
        raise ValueError(
            f"{folder} is a LeRobotDataset {version}, but {VERSION} is needed; convert it with "
            "LeRobot: python -m lerobot.datasets.v30.convert_dataset_v21_to_v30 --repo-id REPO"
        )
    # Otherwise the library would look for missing files on the hub.
    missing = [str(part) for part in _NEEDED if not (folder / part).exists()]
    if missing:
        raise ValueError(f"{folder} is incomplete: {', '.join(missing)} is missing; fetch it again")
    return LeRobotSource(folder)


class LeRobotSource:
    """A LeRobotDataset as a :class:`vla_rl.demos.exchange.source.Source`."""

    action_bounds: Bounds | None = None  # the format has none

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        repo_id = f"local/{folder.name}"
        _require_files(LeRobotDatasetMetadata(repo_id, root=folder), folder)
        self._dataset = LeRobotDataset(repo_id, root=folder, video_backend=_VIDEO_READER)
        self._meta = meta = self._dataset.meta
        features: Mapping[str, Mapping[str, Any]] = meta.features
        if _ACTION not in features:
            raise ValueError(f"{folder} has no feature {_ACTION!r}, only {', '.join(features)}")
        self.images = {
            key: f"{features[key]['dtype']} {'x'.join(map(str, features[key]['shape']))}"
            for key in meta.camera_keys
        }
        self.numbers = {
            key: int(np.prod(feature["shape"]))
            for key, feature in features.items()
            if feature["dtype"] not in ("image", "video", "string")
            and key not in _COUNTERS | {_ACTION}
            and not key.startswith("next.")
        }
        self.action_size = int(np.prod(features[_ACTION]["shape"]))
        self.knows_success = _SUCCESS in features
        self.action_range = self._range()
        self.headers = self._headers(folder)

    def read(
        self, episodes: Sequence[int], views: Sequence[str], state: Sequence[str], size: int
    ) -> Iterator[SourceEpisode]:
        """See :class:`vla_rl.demos.exchange.source.Source`."""
        for index in episodes:
            told = self._meta.episodes[index]
            frames = range(told["dataset_from_index"], told["dataset_to_index"])
            yield self._played(frames, views, state, size)

    def _played(
        self, frames: range, views: Sequence[str], state: Sequence[str], size: int
    ) -> SourceEpisode:
        length = len(frames)
        kept = {_ACTION, *state, *({_REWARD, _SUCCESS} & set(self._meta.features))}
        rows: dict[str, list[NDArray[Any]]] = {key: [] for key in kept}
        images = np.zeros((length, len(views), size, size, 3), np.uint8)
        for t, index in enumerate(frames):
            item = self._dataset[index]
            for v, view in enumerate(views):
                images[t, v] = resized(_picture(item[view].numpy()), size)
            for key in kept:
                rows[key].append(item[key].numpy())
        stacked = {key: as_matrix(np.stack(row), length) for key, row in rows.items()}
        numbers = [stacked[key] for key in state]
        return SourceEpisode(
            images=images,
            state=np.concatenate([np.zeros((length, 0)), *numbers], axis=1).astype(np.float32),
            actions=stacked[_ACTION],
            reward=stacked.get(_REWARD, np.zeros((length, 1)))[:, 0].astype(np.float32),
            success=bool(stacked[_SUCCESS].any()) if _SUCCESS in stacked else None,
        )

    def _range(self) -> Bounds | None:
        told = (self._meta.stats or {}).get(_ACTION, {})
        if not {"min", "max"} <= told.keys():
            return None
        return Bounds(*(np.asarray(told[end], np.float64).ravel() for end in ("min", "max")))

    def _headers(self, folder: Path) -> list[Header]:
        episodes = [self._meta.episodes[i] for i in range(self._meta.total_episodes)]
        headers = [
            Header(int(e["length"]), e["tasks"][0] if len(e["tasks"]) == 1 else None)
            for e in episodes
        ]
        if not (folder / _OURS).exists():
            return headers
        ours = json.loads((folder / _OURS).read_text())
        if [told["length"] for told in ours["episodes"]] != [h.length for h in headers]:
            raise ValueError(
                f"{folder / _OURS} does not match the episodes of the dataset; delete it to "
                "import them as episodes that vla-rl did not record"
            )
        return [
            Header(h.length, h.sentence, _spec(ours["suite"], told, h), told["source"])
            for h, told in zip(headers, ours["episodes"], strict=True)
        ]


def _require_files(meta: LeRobotDatasetMetadata, folder: Path) -> None:
    """Require every file of frames; otherwise the library would look for them on the hub."""
    every = range(meta.total_episodes)
    named = {meta.get_data_file_path(i) for i in every} | {
        meta.get_video_file_path(i, key) for i in every for key in meta.video_keys
    }
    missing = sorted(str(file) for file in named if not (folder / file).is_file())
    if missing:
        raise ValueError(f"{folder} is incomplete: {', '.join(missing)} is missing; fetch it again")


def _spec(suite: str, told: Mapping[str, Any], header: Header) -> EpisodeSpec:
    task = Task(suite, told["task_id"], str(header.sentence), told["max_steps"])
    return EpisodeSpec(task, told["seed"])


def _picture(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Convert the library's ``[c, h, w]`` in [0, 1] to ``[h, w, 3]`` uint8, exactly."""
    return rgb(np.rint(np.moveaxis(pixels, 0, -1) * 255).astype(np.uint8))
