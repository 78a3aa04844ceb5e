"""What demonstrations of another project look like to us, whichever their format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vla_rl.types import EpisodeSpec, Floats


@dataclass(frozen=True)
class Header:
    """What is known of an episode before its frames are read.

    Attributes:
        length: Steps, L.
        sentence: What the robot was told, or None where the source does not say.
        spec: The start, where vla-rl itself had recorded the episode.
        source: Who acted, where vla-rl itself had recorded it.
    """

    length: int
    sentence: str | None = None
    spec: EpisodeSpec | None = None
    source: str = ""


@dataclass(frozen=True)
class Played:
    """One episode as its source tells it.

    Attributes:
        images: ``[L, V, h, w, 3]`` uint8 at the wanted size, upright RGB.
        state: ``[L, S]`` float32.
        actions: ``[L, A]`` float64 in the source's own units.
        reward: ``[L]`` float32; zeros where the source has none.
        success: Whether the task was solved; None where the source does not say.
    """

    images: NDArray[np.uint8]
    state: Floats
    actions: NDArray[np.float64]
    reward: Floats
    success: bool | None


@dataclass(frozen=True)
class Bounds:
    """The actions that are -1 and 1 to a policy: each one number or ``[A]`` numbers."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]


class Source(Protocol):
    """Demonstrations in another format."""

    @property
    def name(self) -> str:
        """How the episodes' origin is called."""

    @property
    def images(self) -> Mapping[str, str]:
        """Keys of the camera views, with words on their shape."""

    @property
    def numbers(self) -> Mapping[str, int]:
        """Keys of what may be a part of the state, with how many numbers each has."""

    @property
    def action_size(self) -> int:
        """A."""

    @property
    def action_bounds(self) -> Bounds | None:
        """Bounds of the action space, if the source has any."""

    @property
    def action_range(self) -> Bounds | None:
        """The least and the greatest action that occurs, if that is known without reading."""

    @property
    def tells_success(self) -> bool:
        """Whether it says which episodes were solved."""

    @property
    def headers(self) -> Sequence[Header]:
        """Of every episode, in order."""

    def read(
        self, episodes: Sequence[int], views: Sequence[str], state: Sequence[str], size: int
    ) -> Iterator[Played]:
        """Episodes by index, with these views (resized to squares) and state in this order.

        Raises:
            ValueError: If an episode cannot be read.
        """


def found_keys(source: Source) -> str:
    """The keys of a source, for messages."""
    images = [f"{key} ({shape})" for key, shape in source.images.items()]
    numbers = [f"{key} ({count})" for key, count in source.numbers.items()]
    return (
        f"{source.name} has the images {', '.join(images) or 'none'} and the numbers "
        f"{', '.join(numbers) or 'none'}"
    )


def as_matrix(rows: NDArray[Any], length: int) -> NDArray[np.float64]:
    """``[L, ...]`` as ``[L, n]`` numbers."""
    return np.asarray(rows, np.float64).reshape(length, -1)
