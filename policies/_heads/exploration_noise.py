"""Exploration noise that persists: over a chunk, and in part over an episode.

Independent noise on every low-level step averages out within a chunk, so the rollouts of a group
all succeed or all fail. This noise is, for one action dimension and step ``t`` of a chunk,

    e_t = sqrt(share) * c + sqrt(1 - share) * x_t,
    x_0 = z_0,   x_t = rho * x_(t-1) + sqrt(1 - rho^2) * z_t,

with ``c`` drawn once per episode and ``z_t`` per decision, all standard normal. Hence
``e_t ~ N(0, 1)`` for every ``t``, ``cov(e_t, e_u) = share + (1 - share) * rho^|t - u|`` inside a
chunk, and ``share`` between two decisions of an episode. Given ``c`` the decisions are independent,
with mean ``sqrt(share) * c`` and covariance ``(1 - share) * rho^|t - u|``.

Every number is a function of the row's key alone, so an episode that is played again (after a
crash, in another process, in another batch) gets the same noise.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_rl.types import Floats

_EPISODE_STREAM = 0  # decisions use streams 1, 2, ...
_PICK_STREAMS = 2**63  # and choices those from here on


class Noise(NamedTuple):
    """Several draws of noise for B chunks, independent of each other.

    Attributes:
        whole: ``[B, draws, H * A]`` the noise ``e``.
        constant: ``[B, draws, A]`` the part ``c`` of it that is the same for the whole episode.
    """

    whole: Floats
    constant: Floats


def draw(
    keys: NDArray[np.int64], draws: int, horizon: int, action_dim: int, rho: float, share: float
) -> Noise:
    """Noise for B decisions.

    Each draw has its own constant over the episode, so the n-th draws of two decisions are alike as
    the noise of two decisions is.

    Args:
        keys: ``[B, 2]`` episode key and decision index (>= 0) of every row.
        draws: How many.
        horizon: H.
        action_dim: A.
        rho: Correlation of neighbouring steps of a chunk, in [0, 1).
        share: Part of the variance that is constant over the episode, in [0, 1).
    """
    constant, fresh = _normals(keys, horizon, draws * action_dim)
    lasting = np.empty_like(fresh)  # x
    lasting[:, 0] = fresh[:, 0]
    for step in range(1, horizon):
        lasting[:, step] = rho * lasting[:, step - 1] + np.sqrt(1 - rho**2) * fresh[:, step]
    whole = np.sqrt(share) * constant[:, None] + np.sqrt(1 - share) * lasting
    whole = whole.reshape(len(keys), horizon, draws, action_dim).transpose(0, 2, 1, 3)
    return Noise(
        whole.reshape(len(keys), draws, -1).astype(np.float32),
        constant.reshape(len(keys), draws, action_dim).astype(np.float32),
    )


def covariance(horizon: int, rho: float, share: float) -> NDArray[np.float64]:
    """Covariance ``[H, H]`` of the noise of the steps of one chunk; ones on the diagonal."""
    lag = np.abs(np.subtract.outer(np.arange(horizon), np.arange(horizon)))
    return np.asarray(share + (1 - share) * np.power(rho, lag))


def pick(keys: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """One of ``0 .. count - 1`` for every row ``[B]``, equally likely, from its key ``[B, 2]``."""
    stream = _streams()
    return np.array(
        [
            stream.at(key, _PICK_STREAMS + index).integers(count)
            for key, index in keys.astype(np.uint64).tolist()
        ],
        np.int64,
    )


def _normals(
    keys: NDArray[np.int64], horizon: int, action_dim: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Standard normals of the episodes ``[B, A]`` and of the decisions ``[B, H, A]``."""
    episode = np.empty((len(keys), action_dim))
    decision = np.empty((len(keys), horizon, action_dim))
    stream = _streams()
    for row, (key, index) in enumerate(keys.astype(np.uint64).tolist()):
        stream.at(key, _EPISODE_STREAM).standard_normal(out=episode[row])
        stream.at(key, index + 1).standard_normal(out=decision[row])
    return episode, decision


@functools.cache
def _streams() -> _Streams:
    """The one of this process: making a generator costs more than a draw."""
    return _Streams()


class _Streams:
    """Philox streams by key; moving one generator is five times cheaper than making another."""

    def __init__(self) -> None:
        self._bits = np.random.Philox(key=0)
        self._start = self._bits.state
        self._generator = np.random.Generator(self._bits)

    def at(self, key: int, stream: int) -> np.random.Generator:
        """The generator at the beginning of a stream; valid until the next call."""
        self._start["state"]["key"][:] = key, stream
        self._bits.state = self._start
        return self._generator
