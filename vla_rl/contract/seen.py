"""What a policy under examination is shown, and how two of its decisions differ."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray

from vla_rl.policy import PolicyBase
from vla_rl.types import ActionChunk, Observation

ROWS = 6


@dataclass(frozen=True)
class Seen:
    """Rows of what is seen, told, and the keys of their noise.

    Attributes:
        obs: ``[B]`` random images and states.
        words: B sentences.
        keys: ``[B, 2]``.
    """

    obs: Observation
    words: tuple[str, ...]
    keys: NDArray[np.int64]

    @classmethod
    def by(cls, policy: PolicyBase, rows: int = ROWS, alike: bool = False) -> Seen:
        """Random rows for a policy, in which its sentences take turns.

        Args:
            policy: Which remembers sentences.
            rows: B.
            alike: All rows have the same observation and instruction; only their keys differ.
        """
        drawn, spaces = np.random.default_rng(0), policy.spaces
        count, told = 1 if alike else rows, list(policy.text_memory)
        shape = (count, len(spaces.views), spaces.image_size, spaces.image_size, 3)
        obs = Observation(
            drawn.integers(0, 256, shape, dtype=np.uint8),
            drawn.normal(size=(count, spaces.state_dim)).astype(np.float32),
        )
        which = np.arange(rows) % count
        keys = np.stack([10**12 + np.arange(rows), np.arange(rows) % 3], axis=1)
        return cls(obs[which], tuple(told[row % len(told)] for row in which), keys)

    def __getitem__(self, index: slice | NDArray[np.int64]) -> Seen:
        rows = np.arange(len(self.words))[index]
        return Seen(self.obs[rows], tuple(self.words[row] for row in rows), self.keys[rows])

    def later(self) -> Seen:
        """The same at later decisions of the episodes."""
        return replace(self, keys=self.keys + np.array([0, 3]))

    def dark(self) -> Seen:
        """The same with darker images."""
        return replace(self, obs=Observation(self.obs.images // 4, self.obs.state))

    def without_images(self) -> Seen:
        """The same, as an update is given it that starts from features."""
        return replace(self, obs=Observation(self.obs.images[:, :0], self.obs.state))


def act(policy: PolicyBase, seen: Seen, greedy: bool = False) -> ActionChunk:
    """What it decides."""
    return policy.act(seen.obs, seen.words, None if greedy else seen.keys)


def difference(a: ActionChunk, b: ActionChunk, tolerance: float = 0.0) -> str:
    """The first array in which two decisions differ, in words; empty if they are equal.

    The tolerance is absolute for small numbers and relative for large ones.
    """
    for name in (f.name for f in fields(ActionChunk)):
        x, y = vars(a)[name], vars(b)[name]
        if x.shape != y.shape:
            return f"{name} has the shapes {list(x.shape)} and {list(y.shape)}"
        if not np.allclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True):
            apart = np.abs(x.astype(np.float64) - y).max()
            return f"{name}: up to {apart:.3g} apart"
    return ""


@contextlib.contextmanager
def elsewhere() -> Iterator[None]:
    """With all global random generators in another state, which is undone."""
    of_numpy, of_python = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)
        try:
            yield
        finally:
            np.random.set_state(of_numpy)
            random.setstate(of_python)
