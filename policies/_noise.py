"""Exploration noise that persists: over a chunk, and in part over an episode.

Independent noise on every low-level step averages out within a chunk, so the rollouts of a group
all succeed or all fail. This noise is, for one action dimension and step ``t`` of a chunk,

    e_t = sqrt(share) * c + sqrt(1 - share) * x_t,
    x_0 = z_0,   x_t = rho * x_(t-1) + sqrt(1 - rho^2) * z_t,

with ``c`` drawn once per episode and ``z_t`` per decision, all standard normal. Hence
``e_t ~ N(0, 1)`` for every ``t``, ``cov(e_t, e_u) = share + (1 - share) * rho^|t - u|`` inside a
chunk, and ``share`` between two decisions of an episode.

Split at step ``t`` into what is known before it and what is new,

    e_t = offset_t + s_t * z_t,
    offset_0 = sqrt(share) * c,   offset_t = sqrt(share) * c + sqrt(1 - share) * rho * x_(t-1),
    s_0 = sqrt(1 - share),        s_t = sqrt((1 - share) * (1 - rho^2)),

``N(offset_t, s_t^2)`` is the exact law of ``e_t`` given ``c`` and the chunk's earlier noise.

Every number is a function of the row's key alone, so an episode that is played again (after a
crash, in another process, in another batch) meets the same noise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_rl.types import Floats

_EPISODE_STREAM = 0  # decisions use streams 1, 2, ...
_PICK_STREAMS = 2**63  # and choices those from here on


class Noise(NamedTuple):
    """Noise ``e = offset + s * innovation`` of B chunks.

    Attributes:
        offset: ``[B, H, A]`` what the past determines, in units of the marginal deviation.
        innovation: ``[B, H, A]`` independent standard normals ``z``.
    """

    offset: Floats
    innovation: Floats


def innovation_scale(horizon: int, rho: float, share: float) -> Floats:
    """The deviations ``s_t`` of the new part of the noise, ``[H]``."""
    scale = np.full(horizon, np.sqrt((1 - share) * (1 - rho**2)), np.float32)
    scale[0] = np.sqrt(1 - share)
    return scale


def draw(keys: NDArray[np.int64], horizon: int, action_dim: int, rho: float, share: float) -> Noise:
    """Noise for B decisions.

    Args:
        keys: ``[B, 2]`` episode key and decision index (>= 0) of every row.
        horizon: H.
        action_dim: A.
        rho: Correlation of neighbouring steps of a chunk, in [0, 1).
        share: Part of the variance that is constant over the episode, in [0, 1).
    """
    episode, innovation = _normals(keys, horizon, action_dim)
    offset = np.empty_like(innovation)
    constant = np.sqrt(share) * episode
    past = np.zeros_like(episode)  # rho * x_(t-1)
    fresh = np.full(horizon, np.sqrt(1 - rho**2))
    fresh[0] = 1.0
    for step in range(horizon):
        offset[:, step] = constant + np.sqrt(1 - share) * past
        past = rho * (past + fresh[step] * innovation[:, step])
    return Noise(offset.astype(np.float32), innovation.astype(np.float32))


def marginal(
    keys: NDArray[np.int64], draws: int, horizon: int, action_dim: int, rho: float, share: float
) -> Floats:
    """Several draws of the whole noise ``e``, independent of each other, ``[B, draws, H * A]``.

    Each has its own constant ``c`` over the episode, so the n-th draws of two decisions are alike
    as the noise of two decisions is. Arguments as of :func:`draw`.
    """
    noise = draw(keys, horizon, draws * action_dim, rho, share)
    scale = innovation_scale(horizon, rho, share)[:, None]
    whole = (noise.offset + scale * noise.innovation).reshape(len(keys), horizon, draws, action_dim)
    return np.ascontiguousarray(whole.transpose(0, 2, 1, 3)).reshape(len(keys), draws, -1)


def covariance(horizon: int, rho: float, share: float) -> NDArray[np.float64]:
    """Covariance ``[H, H]`` of the noise of the steps of one chunk; ones on the diagonal."""
    lag = np.abs(np.subtract.outer(np.arange(horizon), np.arange(horizon)))
    return np.asarray(share + (1 - share) * np.power(rho, lag))


def pick(keys: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """One of ``0 .. count - 1`` for every row ``[B]``, equally likely, from its key ``[B, 2]``."""
    stream = _Streams()
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
    stream = _Streams()
    for row, (key, index) in enumerate(keys.astype(np.uint64).tolist()):
        stream.at(key, _EPISODE_STREAM).standard_normal(out=episode[row])
        stream.at(key, index + 1).standard_normal(out=decision[row])
    return episode, decision


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
