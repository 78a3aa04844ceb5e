"""Gymnasium spaces for a policy: actions in [-1, 1], flat states, upright RGB images."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from PIL import Image

from vla_rl.types import Floats

# ---------------------------------------------------------------------------------------- actions


@dataclass(frozen=True)
class ActionMap:
    """Converts a policy's actions to those of an environment.

    Attributes:
        size: A, how many numbers in [-1, 1] make one action.
        to_env: Maps ``[A]`` such numbers to an element of the environment's action space.
    """

    size: int
    to_env: Callable[[NDArray[np.float64]], Any]


def action_map(space: spaces.Space[Any]) -> ActionMap:
    """Map actions in [-1, 1] to an action space.

    A Box is scaled linearly. A Discrete space takes one number per option, and the largest wins;
    MultiDiscrete is several of these. A MultiBinary bit is set by a number above 0.

    Raises:
        ValueError: For another space, or a Box without bounds.
    """
    if isinstance(space, spaces.Box):
        if not space.is_bounded():
            raise ValueError(
                f"the action space {space} has no bounds, so it cannot be scaled to [-1, 1]; "
                "wrap the environment in gymnasium.wrappers.RescaleAction or ClipAction and "
                "register the wrapped one"
            )
        return ActionMap(int(np.prod(space.shape)), functools.partial(_scaled, space))
    if isinstance(space, spaces.Discrete):
        first = int(space.start)
        return ActionMap(int(space.n), lambda action: first + int(np.argmax(action)))
    if isinstance(space, spaces.MultiDiscrete):
        ends = np.cumsum(space.nvec.ravel())
        return ActionMap(int(ends[-1]), functools.partial(_chosen, space, ends))
    if isinstance(space, spaces.MultiBinary):
        shape = space.shape
        return ActionMap(
            int(np.prod(shape)), lambda action: (action > 0).astype(np.int8).reshape(shape)
        )
    raise ValueError(
        f"the action space {space} is not supported; allowed: Box, Discrete, MultiDiscrete, "
        "MultiBinary"
    )


def _scaled(space: spaces.Box, action: NDArray[np.float64]) -> NDArray[Any]:
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    wanted = low + (action.reshape(space.shape) + 1) / 2 * (high - low)
    if np.issubdtype(space.dtype, np.integer):
        wanted = np.round(wanted)
    # Rounding to the dtype of the space must not leave its bounds.
    return np.clip(wanted.astype(space.dtype), space.low, space.high)


def _chosen(
    space: spaces.MultiDiscrete, ends: NDArray[np.int64], action: NDArray[np.float64]
) -> NDArray[Any]:
    best = [int(np.argmax(scores)) for scores in np.split(action, ends[:-1])]
    chosen: NDArray[Any] = np.array(best, space.dtype).reshape(space.shape) + space.start
    return chosen


# ----------------------------------------------------------------------------------- observations


@dataclass(frozen=True)
class Leaf:
    """A leaf of an observation space.

    Attributes:
        name: Its keys joined by ``/``, or ``"observation"`` if the whole space is one leaf.
        path: Its keys.
        space: Its own space.
    """

    name: str
    path: tuple[Any, ...]
    space: spaces.Space[Any]

    @property
    def is_image(self) -> bool:
        """Whether it is an image: uint8, with 1, 3 or 4 channels (first or last) or none."""
        return _channels(self.space) is not None

    @property
    def is_state(self) -> bool:
        """Whether it is a fixed number of numbers and not an image."""
        return self.space.is_np_flattenable and not self.is_image

    def of(self, observation: Any) -> Any:
        """This leaf of an observation."""
        return functools.reduce(operator.getitem, self.path, observation)

    def image(self, observation: Any) -> NDArray[np.uint8]:
        """This leaf of an observation as an ``[h, w, 3]`` image."""
        pixels: NDArray[np.uint8] = np.asarray(self.of(observation))
        channels = _channels(self.space)
        if channels is None:
            raise ValueError(f"{self.name} of the observation is not an image: {self.space}")
        return rgb(np.moveaxis(pixels, channels, -1) if pixels.ndim == 3 else pixels)


def leaves(space: spaces.Space[Any], path: tuple[Any, ...] = ()) -> list[Leaf]:
    """The leaves of an observation space, in the space's order."""
    if isinstance(space, spaces.Dict):
        return [part for key, inner in space.items() for part in leaves(inner, (*path, key))]
    if isinstance(space, spaces.Tuple):
        return [part for key, inner in enumerate(space) for part in leaves(inner, (*path, key))]
    return [Leaf("/".join(map(str, path)) or "observation", path, space)]


def flat(chosen: Sequence[Leaf], observation: Any) -> NDArray[np.float64]:
    """The chosen leaves of an observation as one vector; a discrete leaf becomes one-hot."""
    if not chosen:
        return np.zeros(0)
    return np.concatenate(
        [
            np.asarray(spaces.flatten(part.space, part.of(observation)), np.float64)
            for part in chosen
        ]
    )


def flat_size(chosen: Sequence[Leaf]) -> int:
    """Length of :func:`flat`."""
    return sum(spaces.flatdim(part.space) for part in chosen)


# ----------------------------------------------------------------------------------------- images

_SMALLEST_SIDE = 16  # smaller arrays of bytes are probably codes, not images


def _channels(space: spaces.Space[Any]) -> int | None:
    """The channel axis of an image (2 if it has no such axis); None if it is not an image."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return None
    shape = space.shape
    if len(shape) == 2:
        return 2 if min(shape) >= _SMALLEST_SIDE else None
    if len(shape) != 3:
        return None
    if shape[2] in (1, 3, 4) and min(shape[:2]) >= _SMALLEST_SIDE:
        return 2
    return 0 if shape[0] in (1, 3, 4) and min(shape[1:]) >= _SMALLEST_SIDE else None


def rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert ``[h, w]`` or ``[h, w, 1 | 3 | 4]`` to ``[h, w, 3]``; transparency is dropped."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[..., :3]


def resized(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize ``[h, w, 3]`` to ``[size, size, 3]``: each new pixel is the mean of its area."""
    if pixels.shape[:2] == (size, size):
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))


def as_state(numbers: NDArray[np.float64]) -> Floats:
    """Convert observed numbers to a policy's state.

    Raises:
        RuntimeError: If one is not finite, which would spoil the policy for good.
    """
    if not np.isfinite(numbers).all():
        raise RuntimeError(f"the environment observed {numbers.tolist()}, which are not all finite")
    return numbers.astype(np.float32)
