"""The common interface of demonstrations in other formats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vla_rl.types import EpisodeSpec, Floats


@dataclass(frozen=True)
class Header:
    """Metadata of an episode, known before its frames are read.

    Attributes:
        length: Number of steps, L.
        sentence: The instruction, or None if the source has none.
        spec: The start, if vla-rl recorded the episode.
        source: The demonstrator (``"expert"``, ...), if vla-rl recorded the episode.
    """

    length: int
    sentence: str | None = None
    spec: EpisodeSpec | None = None
    source: str = ""


@dataclass(frozen=True)
class SourceEpisode:
    """One episode as read from a source.

    Attributes:
        images: ``[L, V, h, w, 3]`` uint8 at the requested size, upright RGB.
        state: ``[L, S]`` float32.
        actions: ``[L, A]`` float64 in the source's own units.
        reward: ``[L]`` float32; zeros if the source has none.
        success: Whether the task was solved; None if the source does not say.
    """

    images: NDArray[np.uint8]
    state: Floats
    actions: NDArray[np.float64]
    reward: Floats
    success: bool | None


@dataclass(frozen=True)
class Bounds:
    """The actions that become -1 and 1: each one number or ``[A]`` numbers."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]


class Source(Protocol):
    """Demonstrations in another format."""

    @property
    def name(self) -> str:
        """Name of the dataset, for messages and the ``source`` of demonstrations."""

    @property
    def images(self) -> Mapping[str, str]:
        """Keys of the camera views, with their shapes as text."""

    @property
    def numbers(self) -> Mapping[str, int]:
        """Keys of possible parts of the state, with their sizes."""

    @property
    def action_size(self) -> int:
        """Number of action dimensions, A."""

    @property
    def action_bounds(self) -> Bounds | None:
        """Bounds of the action space, if the source has any."""

    @property
    def action_range(self) -> Bounds | None:
        """The smallest and largest actions that occur, if known without reading episodes."""

    @property
    def knows_success(self) -> bool:
        """Whether the source says which episodes were solved."""

    @property
    def headers(self) -> Sequence[Header]:
        """Metadata of every episode, in order."""

    def read(
        self, episodes: Sequence[int], views: Sequence[str], state: Sequence[str], size: int
    ) -> Iterator[SourceEpisode]:
        """Yield episodes by index, with these views (resized to squares) and state keys.

        Raises:
            ValueError: If an episode cannot be read.
        """


def found_keys(source: Source) -> str:
    """A list of the keys of a source, for messages."""
    images = [f"{key} ({shape})" for key, shape in source.images.items()]
    numbers = [f"{key} ({count})" for key, count in source.numbers.items()]
    return (
        f"{source.name} has the images {', '.join(images) or 'none'} and the numbers "
        f"{', '.join(numbers) or 'none'}"
    )


def as_matrix(rows: NDArray[Any], length: int) -> NDArray[np.float64]:
    """Reshape ``[L, ...]`` to ``[L, n]`` numbers."""
    return np.asarray(rows, np.float64).reshape(length, -1)
