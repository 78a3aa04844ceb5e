"""Minari datasets: a folder, or an id in Minari's own folder of datasets.

A demo set already is a Minari dataset (:mod:`vla_rl.demos.demo_set`); exporting it makes a copy
that Minari finds by its id. Any dataset with Box actions and an observation of images and numbers,
however nested, can be imported.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
from minari.dataset.minari_dataset import parse_dataset_id
from minari.dataset.minari_storage import METADATA_FILE_NAME
from numpy.typing import NDArray

from vla_rl.demos.demo_set import DemoSet
from vla_rl.demos.exchange.source import Bounds, Header, SourceEpisode, as_matrix
from vla_rl.gym_spaces import Leaf, leaves, resized, rgb
from vla_rl.storage.files import appearing
from vla_rl.types import EpisodeSpec, Task

_TOLD_BY = ("success", "is_success")  # info keys with one number per step, in order of preference

Frames = Callable[[Any], Iterator[NDArray[np.uint8]]]
"""Takes the stacked observations of an episode and yields ``[h, w, 3]`` images."""


# ------------------------------------------------------------------------------------------- export


def export(
    demos: DemoSet,
    out: Path,
    dataset_id: str | None = None,
    on_file: Callable[[], None] = lambda: None,
) -> str:
    """Copy a set into a new folder of Minari datasets (``MINARI_DATASETS_PATH``).

    The copy is in ``OUT/<id>/data`` and is still a demo set of vla-rl.

    Args:
        demos: The demonstrations to copy.
        out: The new folder.
        dataset_id: Of the form ``namespace/name-v0``; by default the id in the set's metadata.
        on_file: Called after every copied file.

    Returns:
        The dataset id.

    Raises:
        FileExistsError: If the folder holds anything.
        ValueError: If Minari does not accept the id.
    """
    metadata = json.loads((demos.path / METADATA_FILE_NAME).read_text())
    metadata["dataset_id"] = dataset_id or metadata["dataset_id"]
    _require_id(metadata["dataset_id"])
    with appearing(out) as root:
        data = root / metadata["dataset_id"] / "data"
        data.mkdir(parents=True)
        (data / METADATA_FILE_NAME).write_text(json.dumps(metadata, indent=1))
        for file in files_to_copy(demos):
            shutil.copyfile(file, data / file.name)
            on_file()
    return str(metadata["dataset_id"])


def files_to_copy(demos: DemoSet) -> list[Path]:
    """The files of a set that :func:`export` copies as they are."""
    names = {METADATA_FILE_NAME}
    return sorted(f for f in demos.path.iterdir() if f.is_file() and f.name not in names)


def _require_id(dataset_id: str) -> None:
    try:
        parse_dataset_id(dataset_id)
    except ValueError as error:
        raise ValueError(
            f"{dataset_id!r} is not a Minari dataset id; use the form namespace/name-v0"
        ) from error


# ------------------------------------------------------------------------------------------- import


def open_source(name: str) -> MinariSource:
    """Open a dataset by its folder or its id.

    Raises:
        ValueError: If there is none, Minari cannot read it, or its actions are not a Box.
    """
    folder = Path(name).resolve()  # Minari does not handle relative paths correctly
    inner = folder / "data"
    if (folder / METADATA_FILE_NAME).is_file() or (inner / METADATA_FILE_NAME).is_file():
        found = folder if (folder / METADATA_FILE_NAME).is_file() else inner
        return MinariSource(minari.MinariDataset(found))
    if folder.exists():
        raise ValueError(f"{folder} is not a Minari dataset: it has no {METADATA_FILE_NAME}")
    local = list(minari.list_local_datasets())
    if name not in local:
        raise ValueError(
            f"{name!r} is neither the folder of a Minari dataset nor the id of one on this machine "
            f"({', '.join(local) or 'there are none'}); `minari download` fetches one, and "
            "MINARI_DATASETS_PATH is the folder of all of them"
        )
    return MinariSource(minari.load_dataset(name))


class MinariSource:
    """A Minari dataset as a :class:`vla_rl.demos.exchange.source.Source`."""

    action_range: Bounds | None = None  # only the space's bounds are known without reading episodes

    def __init__(self, dataset: minari.MinariDataset) -> None:
        space = dataset.action_space
        self.name = dataset.spec.dataset_id
        if not isinstance(space, gymnasium.spaces.Box):
            raise ValueError(f"{self.name} has the action space {space}; it must be a Box")
        self._dataset = dataset
        self.action_size = int(np.prod(space.shape))
        self.action_bounds: Bounds | None = Bounds(
            np.asarray(space.low, np.float64).ravel(), np.asarray(space.high, np.float64).ravel()
        )
        metadata = dataset.storage.metadata
        self._ours: Mapping[str, Any] | None = metadata.get("vla_rl")
        self._frames: dict[str, Frames] = {}
        self.images: dict[str, str] = {}
        self.numbers: dict[str, int] = {}
        self._parts: dict[str, Leaf] = {}
        for part in leaves(dataset.observation_space):
            self._sort(part)
        total = range(dataset.total_episodes)
        self._told: list[Mapping[str, Any]] = list(dataset.storage.get_episode_metadata(total))
        self.headers = [self._header(told, metadata.get("instruction")) for told in self._told]
        self.knows_success = bool(self.headers) and self._knows_success()

    def read(
        self, episodes: Sequence[int], views: Sequence[str], state: Sequence[str], size: int
    ) -> Iterator[SourceEpisode]:
        """See :class:`vla_rl.demos.exchange.source.Source`."""
        for index in episodes:
            (episode,) = self._dataset.storage.get_episodes([index])
            yield self._played(index, episode, views, state, size)

    def _sort(self, part: Leaf) -> None:
        """Decide whether a leaf of the observation holds images or numbers."""
        shape = part.space.shape
        if part.is_image:
            self.images[part.name] = "x".join(map(str, shape or ()))
            self._frames[part.name] = functools.partial(_frames, part)
        elif shape is not None and len(shape) == 4 and part.space.dtype == np.uint8:
            for view, name in enumerate(self._names(part, shape[0])):
                self.images[name] = "x".join(map(str, shape[1:]))
                self._frames[name] = functools.partial(_stacked_frames, part, view)
        elif part.is_state:
            self.numbers[part.name] = gymnasium.spaces.flatdim(part.space)
            self._parts[part.name] = part

    def _names(self, part: Leaf, count: int) -> Sequence[str]:
        """Names of stacked views: those that vla-rl wrote, or their indices."""
        if self._ours is not None:
            return [str(view) for view in self._ours["spaces"]["views"]]
        return [f"{part.name}/{view}" for view in range(count)]

    def _header(self, told: Mapping[str, Any], instruction: str | None) -> Header:
        sentence = told.get("instruction", instruction)
        length = int(told["total_steps"])
        if self._ours is None:
            return Header(length, sentence)
        task = Task(
            self._ours["suite"], str(told["task_id"]), str(sentence), int(told["max_steps"])
        )
        return Header(length, sentence, EpisodeSpec(task, int(told["seed"])), str(told["source"]))

    def _knows_success(self) -> bool:
        (first,) = self._dataset.storage.get_episodes([0])
        return self._success(0, first) is not None

    def _success(self, index: int, episode: Mapping[str, Any]) -> bool | None:
        if "success" in self._told[index]:
            return bool(self._told[index]["success"])
        infos = episode["infos"] or {}
        for key in _TOLD_BY:
            if key in infos:
                return bool(np.any(infos[key]))
        return None

    def _played(
        self,
        index: int,
        episode: Mapping[str, Any],
        views: Sequence[str],
        state: Sequence[str],
        size: int,
    ) -> SourceEpisode:
        seen, actions = episode["observations"], np.asarray(episode["actions"])
        length = len(actions)  # one less than observations: no action follows the last
        images = np.zeros((length, len(views), size, size, 3), np.uint8)
        for column, view in enumerate(views):
            for row, frame in zip(range(length), self._frames[view](seen), strict=False):
                images[row, column] = resized(frame, size)
        numbers = [_flat(self._parts[key], seen, length) for key in state]
        return SourceEpisode(
            images=images,
            state=np.concatenate([np.zeros((length, 0)), *numbers], axis=1).astype(np.float32),
            actions=as_matrix(actions, length),
            reward=np.asarray(episode["rewards"], np.float32),
            success=self._success(index, episode),
        )


def _frames(part: Leaf, seen: Any) -> Iterator[NDArray[np.uint8]]:
    frames, shape = part.of(seen), part.space.shape
    assert shape is not None
    channels_first = len(shape) == 3 and shape[2] not in (1, 3, 4)
    return map(rgb, np.moveaxis(frames, 1, -1) if channels_first else frames)


def _stacked_frames(part: Leaf, view: int, seen: Any) -> Iterator[NDArray[np.uint8]]:
    return iter(part.of(seen)[:, view])


def _flat(part: Leaf, seen: Any, length: int) -> NDArray[np.float64]:
    """``[L, n]`` numbers of a leaf; a discrete one becomes one-hot."""
    rows = part.of(seen)
    if isinstance(part.space, gymnasium.spaces.Box):
        return as_matrix(rows[:length], length)
    codes = [np.asarray(gymnasium.spaces.flatten(part.space, rows[t])) for t in range(length)]
    return as_matrix(np.stack(codes), length)
