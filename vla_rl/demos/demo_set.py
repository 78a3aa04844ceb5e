"""Demonstrations on disk: a Minari dataset in a folder.

Layout of the folder, which Minari itself can read (``minari.MinariDataset(folder)``)::

    metadata.json          metadata of Minari and of vla-rl (suite, settings, spaces); commits
    main_data.hdf5         one link per episode into the files below
    episodes_000000.hdf5   the episodes of one append, images compressed without loss

An append writes a new file and then replaces the two small ones, so a kill at any time leaves the
earlier episodes readable, and the cost does not grow with the set. One process may append at a
time; any number may read.

Minari stores one observation more than actions. A :class:`Demonstration` has none after the last
action, so the last observation is stored twice, and the copy is dropped when loading.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import METADATA_FILE_NAME, MinariStorage
from numpy.typing import NDArray

from vla_rl.sim import SimEnv
from vla_rl.storage.files import sync, temporary_folder
from vla_rl.types import Demonstration, EpisodeSpec, Observation, Spaces, Task

FORMAT = 1
_MAIN = "main_data.hdf5"
_TEMPORARY = ".append-"
# Frames of an HDF5 chunk are compressed together. Neighbouring frames are similar, so larger chunks
# compress better, but reading one frame reads its whole chunk.
_CHUNK_BYTES = 512 * 1024
_SPARE_BYTES = 2**20  # room for links and metadata in the check of free space


@dataclass(frozen=True)
class TaskSummary:
    """Summary of the demonstrations of one task.

    Attributes:
        task_id: Name of the task.
        instruction: Its instruction.
        episodes: Number of demonstrations.
        steps: Environment steps in total.
        success: Share of successful ones, in [0, 1].
        mean_length: Mean number of steps.
        sources: Number of demonstrations by source (``"expert"``, ``"policy"``, ...).
    """

    task_id: str
    instruction: str
    episodes: int
    steps: int
    success: float
    mean_length: float
    sources: dict[str, int]


class DemoSet:
    """Demonstrations of one suite in one folder; see :meth:`create` and :meth:`open`.

    Attributes:
        path: The folder.
        suite: Name of the suite.
        settings: Settings of the suite when the episodes were recorded.
        spaces: Shapes of observations and actions.
    """

    def __init__(
        self, path: Path, suite: str, settings: Mapping[str, object], spaces: Spaces
    ) -> None:
        self.path = path
        self.suite = suite
        self.settings = dict(settings)
        self.spaces = spaces

    @classmethod
    def create(
        cls, path: str | Path, suite: str, settings: Mapping[str, object], spaces: Spaces
    ) -> DemoSet:
        """Make an empty set in a new or empty folder.

        Raises:
            ValueError: If the folder holds anything, or the settings cannot be written as JSON.
        """
        path = Path(path).resolve()  # Minari does not handle relative paths correctly
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(f"{path} is not empty; choose another folder or open the set there")
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(path.parent, _TEMPORARY) as temporary:
            _new_storage(temporary / "set", spaces)
            with h5py.File(temporary / "set" / _MAIN, "w", track_order=True):
                pass  # a valid file: Minari leaves an empty one, which HDF5 cannot read
            metadata = _read_json(temporary / "set" / METADATA_FILE_NAME) | {
                "dataset_id": f"vla-rl/{_slug(suite)}-v0",
                "minari_version": minari.__version__,
                "vla_rl": {
                    "format": FORMAT,
                    "suite": suite,
                    "settings": _json_able(settings),
                    "spaces": asdict(spaces),
                },
            }
            _write_json(temporary / "set" / METADATA_FILE_NAME, metadata)
            os.replace(temporary / "set", path)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> DemoSet:
        """Open a set that :meth:`create` made.

        Raises:
            ValueError: If there is no set, vla-rl did not write it, or one of its files is damaged.
        """
        path = Path(path).resolve()  # Minari does not handle relative paths correctly
        ours = _our_metadata(path)
        spaces = dict(ours["spaces"])
        spaces["views"] = tuple(spaces["views"])
        opened = cls(path, ours["suite"], ours["settings"], Spaces(**spaces))
        opened._require_readable_files()
        return opened

    def __len__(self) -> int:
        return int(self._metadata()["total_episodes"])

    def append(self, demonstrations: Sequence[Demonstration]) -> None:
        """Add demonstrations: either all of them or, if this fails or is killed, none.

        Raises:
            ValueError: If a demonstration has a different suite or shape, or an action is outside
                [-1, 1]. Then nothing is written.
            OSError: If the disk is full; the earlier episodes are intact.
        """
        for demonstration in demonstrations:
            self._require_fitting(demonstration)
        if not demonstrations:
            return
        for stale in self.path.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(stale)
        count = len(self)
        self._require_space(count, demonstrations)
        try:
            with temporary_folder(self.path, _TEMPORARY) as temporary:
                self._write_and_commit(temporary, count, demonstrations)
        except (OSError, RuntimeError) as error:  # HDF5 reports a failed write as either
            raise OSError(
                f"could not append {len(demonstrations)} episodes to {self.path}: {error}. The "
                f"{count} earlier episodes are intact; free some space and append again"
            ) from error

    def truncate(self, episodes: int) -> None:
        """Drop all but the first episodes, as a run that returns to a checkpoint must.

        The dropped ones stay on disk until others are appended in their place.

        Raises:
            ValueError: If the set has fewer episodes.
        """
        if not 0 <= episodes <= len(self):
            raise ValueError(f"{self.path} holds {len(self)} episodes, not {episodes} or more")
        metadata = self._metadata()
        headers = self._headers()[:episodes]
        metadata["total_episodes"] = episodes
        metadata["total_steps"] = sum(int(header["total_steps"]) for header in headers)
        with temporary_folder(self.path, _TEMPORARY) as temporary:
            _write_json(temporary / METADATA_FILE_NAME, metadata)
            os.replace(temporary / METADATA_FILE_NAME, self.path / METADATA_FILE_NAME)
        sync(self.path)

    def load(self, tasks: Collection[str] | None = None) -> list[Demonstration]:
        """Read the demonstrations, in the order they were appended.

        Args:
            tasks: Ids of the tasks to read; all by default.

        Raises:
            ValueError: If the set cannot be read.
        """
        headers = self._headers()
        wanted = [
            i for i, header in enumerate(headers) if tasks is None or header["task_id"] in tasks
        ]
        try:
            episodes = list(MinariStorage.read(self.path).get_episodes(wanted))
        except (OSError, KeyError) as error:
            raise ValueError(self._damaged(str(error))) from error
        return [self._demonstration(headers[e["id"]], e) for e in episodes]

    def specs(self) -> list[EpisodeSpec]:
        """The start of every demonstration, in the order of :meth:`load`; reads no images."""
        return [self._spec(header) for header in self._headers()]

    def summary(self) -> list[TaskSummary]:
        """Summaries of all tasks in the order of their ids; reads no images."""
        by_task: dict[str, list[dict[str, Any]]] = {}
        for header in self._headers():
            by_task.setdefault(str(header["task_id"]), []).append(header)
        return [_summarise(task, by_task[task]) for task in sorted(by_task)]

    def check(self, spaces: Spaces, suite: str) -> None:
        """Require that the set matches a suite and the shapes of a policy.

        Raises:
            ValueError: If it does not; names every difference.
        """
        here, there = asdict(self.spaces) | {"suite": self.suite}, asdict(spaces) | {"suite": suite}
        differences = [
            f"{name} is {here[name]!r} in the demonstrations but {there[name]!r} in this run"
            for name in there
            if here[name] != there[name]
        ]
        if differences:
            raise ValueError(
                f"{self.path} does not fit: {'; '.join(differences)}. Record demonstrations with "
                "the settings of this run, or run with those of the demonstrations"
            )

    # ------------------------------------------------------------------------------- inside

    def _metadata(self) -> dict[str, Any]:
        return _read_json(self.path / METADATA_FILE_NAME)

    def _headers(self) -> list[dict[str, Any]]:
        """Metadata of every episode."""
        try:
            return list(MinariStorage.read(self.path).get_episode_metadata(range(len(self))))
        except (OSError, KeyError) as error:
            raise ValueError(self._damaged(str(error))) from error

    def _spec(self, header: Mapping[str, Any]) -> EpisodeSpec:
        task_id, instruction = str(header["task_id"]), str(header["instruction"])
        task = Task(self.suite, task_id, instruction, int(header["max_steps"]))
        return EpisodeSpec(task, int(header["seed"]))

    def _demonstration(
        self, header: Mapping[str, Any], episode: Mapping[str, Any]
    ) -> Demonstration:
        state = episode["observations"]["state"][:-1]
        size = self.spaces.image_size
        none = np.zeros((len(state) + 1, 0, size, size, 3), np.uint8)
        return Demonstration(
            spec=self._spec(header),
            obs=Observation(episode["observations"].get("images", none)[:-1], state),
            actions=episode["actions"],
            reward=episode["rewards"],
            success=bool(header["success"]),
            source=str(header["source"]),
        )

    def _require_fitting(self, demonstration: Demonstration) -> None:
        size, length = self.spaces.image_size, len(demonstration)
        if demonstration.spec.task.suite != self.suite:
            raise ValueError(f"{demonstration.spec} is not of suite {self.suite!r}")
        if length == 0:
            raise ValueError(f"{demonstration.spec} has no steps")
        expected = {
            "images": (length, len(self.spaces.views), size, size, 3),
            "state": (length, self.spaces.state_dim),
            "actions": (length, self.spaces.action_dim),
            "reward": (length,),
        }
        given = {
            "images": demonstration.obs.images.shape,
            "state": demonstration.obs.state.shape,
            "actions": demonstration.actions.shape,
            "reward": demonstration.reward.shape,
        }
        for name, shape in expected.items():
            if given[name] != shape:
                raise ValueError(
                    f"{demonstration.spec}: {name} have shape {given[name]}, "
                    f"{self.path} needs {shape}"
                )
        if not np.all(np.abs(demonstration.actions) <= 1):  # also false for NaN
            raise ValueError(f"{demonstration.spec}: actions must lie in [-1, 1] and be finite")

    def _require_space(self, count: int, demonstrations: Sequence[Demonstration]) -> None:
        """Check free space in advance, because HDF5 can crash the interpreter after a full disk."""
        needed = _SPARE_BYTES + sum(
            array.nbytes
            for d in demonstrations
            for array in (d.obs.images, d.obs.state, d.actions, d.reward)
        )
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise OSError(
                f"{self.path} has {free / 1e6:.1f} MB free, but {len(demonstrations)} episodes may "
                f"need {needed / 1e6:.1f} MB. The {count} earlier episodes are intact; free some "
                "space and append again"
            )

    def _write_and_commit(
        self, temporary: Path, count: int, demonstrations: Sequence[Demonstration]
    ) -> None:
        """Write the episodes, then their links, then their number, which commits them."""
        part = f"episodes_{count:06d}.hdf5"
        self._write_episodes(temporary / "new", count, demonstrations)
        sync(temporary / "new" / _MAIN)
        # Until the metadata count them, files and links past the count are leftovers of a kill and
        # are simply written again.
        os.replace(temporary / "new" / _MAIN, self.path / part)
        shutil.copyfile(self.path / _MAIN, temporary / _MAIN)
        with h5py.File(temporary / _MAIN, "a", track_order=True) as main:
            for leftover in list(main)[count:]:
                del main[leftover]
            for i in range(len(demonstrations)):
                main[f"episode_{count + i}"] = h5py.ExternalLink(part, f"episode_{i}")
        sync(temporary / _MAIN)
        os.replace(temporary / _MAIN, self.path / _MAIN)
        metadata = self._metadata()
        metadata["total_episodes"] = count + len(demonstrations)
        metadata["total_steps"] += sum(map(len, demonstrations))
        metadata["dataset_size"] = round(
            sum(file.stat().st_size for file in self.path.glob("*.hdf5")) / 1e6, 1
        )
        _write_json(temporary / METADATA_FILE_NAME, metadata)
        os.replace(temporary / METADATA_FILE_NAME, self.path / METADATA_FILE_NAME)
        sync(self.path)

    def _write_episodes(
        self, folder: Path, count: int, demonstrations: Sequence[Demonstration]
    ) -> None:
        """Let Minari write the episodes into a new dataset."""
        storage = _new_storage(folder, self.spaces)
        with h5py.File(folder / _MAIN, "w", track_order=True) as file:
            for i in range(len(demonstrations) if self.spaces.views else 0):
                _prepare_images(file, f"episode_{i}/observations/images", self.spaces)
        storage.update_episodes([_buffer(i, d) for i, d in enumerate(demonstrations)])
        storage.update_episode_metadata(
            [{"id": count + i} | _header(d) for i, d in enumerate(demonstrations)]
        )

    def _require_readable_files(self) -> None:
        try:
            with h5py.File(self.path / _MAIN, "r") as main:
                if len(main) < len(self):
                    raise ValueError(
                        self._damaged(f"{_MAIN} has {len(main)} of {len(self)} episodes")
                    )
                names = [f"episode_{i}" for i in range(len(self))]
                links = [main.get(name, getlink=True) for name in names]
            for part in sorted({link.filename for link in links}):
                h5py.File(self.path / part, "r").close()
        except OSError as error:
            raise ValueError(self._damaged(str(error))) from error

    def _damaged(self, why: str) -> str:
        return (
            f"the demo set {self.path} is damaged: {why}. Restore the file from a copy, or record "
            "the demonstrations again in another folder"
        )


# ----------------------------------------------------------------------------- Minari's storage


def _new_storage(folder: Path, spaces: Spaces) -> MinariStorage:
    observation_space = SimEnv.observation_space_for(spaces)
    if not spaces.views:
        del observation_space.spaces["images"]  # Minari cannot read back an empty space
    return MinariStorage.new(
        folder,
        observation_space=observation_space,
        action_space=gymnasium.spaces.Box(-1, 1, (spaces.action_dim,), np.float32),
        jpeg_encoding=False,  # lossy compression would clone policies on altered frames
    )


def _prepare_images(file: h5py.File, name: str, spaces: Spaces) -> None:
    """Make an empty compressed dataset, because Minari itself only makes uncompressed ones."""
    frame = (len(spaces.views), spaces.image_size, spaces.image_size, 3)
    file.create_dataset(
        name,
        shape=(0, *frame),
        maxshape=(None, *frame),
        chunks=(max(1, _CHUNK_BYTES // math.prod(frame)), *frame),
        dtype=np.uint8,
        compression="gzip",
        compression_opts=4,
    )


def _buffer(i: int, demonstration: Demonstration) -> EpisodeBuffer:
    last = np.arange(len(demonstration)) == len(demonstration) - 1
    obs = demonstration.obs
    stored: dict[str, NDArray[Any]] = {"state": obs.state}
    if obs.images.size:
        stored["images"] = obs.images
    return EpisodeBuffer(
        id=i,
        seed=demonstration.spec.seed,
        observations={name: np.concatenate([seen, seen[-1:]]) for name, seen in stored.items()},
        actions=demonstration.actions,  # type: ignore[arg-type]  # an array is a fine list here
        rewards=demonstration.reward,  # type: ignore[arg-type]
        terminations=last & demonstration.success,  # type: ignore[arg-type]
        truncations=last & (not demonstration.success),  # type: ignore[arg-type]
        infos={},
    )


def _header(demonstration: Demonstration) -> dict[str, Any]:
    task = demonstration.spec.task
    return {
        "task_id": task.id,
        "instruction": task.instruction,
        "max_steps": task.max_steps,
        "success": demonstration.success,
        "source": demonstration.source,
    }


def _summarise(task_id: str, headers: Sequence[Mapping[str, Any]]) -> TaskSummary:
    steps = sum(int(header["total_steps"]) for header in headers)
    return TaskSummary(
        task_id=task_id,
        instruction=str(headers[0]["instruction"]),
        episodes=len(headers),
        steps=steps,
        success=sum(bool(header["success"]) for header in headers) / len(headers),
        mean_length=steps / len(headers),
        sources=dict(Counter(str(header["source"]) for header in headers)),
    )


# ---------------------------------------------------------------------------------------- files


def _our_metadata(path: Path) -> dict[str, Any]:
    advice = "give the folder of demonstrations that vla-rl recorded, or record some"
    if not path.is_dir():
        raise ValueError(f"there is no demo set at {path}; {advice}")
    if not (path / METADATA_FILE_NAME).is_file():
        raise ValueError(f"{path} is not a demo set: it has no {METADATA_FILE_NAME}; {advice}")
    metadata = _read_json(path / METADATA_FILE_NAME)
    if "vla_rl" not in metadata:
        raise ValueError(f"{path} is a Minari dataset that vla-rl did not write; {advice}")
    ours: dict[str, Any] = metadata["vla_rl"]
    if ours["format"] != FORMAT:
        raise ValueError(
            f"{path} has demo format {ours['format']}, this vla-rl reads {FORMAT}; "
            "install the version that recorded it, or record it again"
        )
    return ours


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); restore it from a copy") from error
    return content


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1))
    sync(file)


def _json_able(settings: Mapping[str, object]) -> dict[str, object]:
    try:
        copied: dict[str, object] = json.loads(json.dumps(dict(settings)))
    except TypeError as error:
        raise ValueError(f"suite settings cannot be written as JSON: {error}") from error
    return copied


def _slug(suite: str) -> str:
    """The suite's name in characters that Minari allows in a dataset id."""
    return "".join(letter if letter.isalnum() else "_" for letter in suite)
