"""Random generators by purpose, so that no two uses of one run's seed share a random stream.

A generator is determined by the run's seed, a word for its purpose, and indices such as the
iteration. ``SeedSequence`` ignores trailing zeros, so without the word ``[seed]`` and ``[seed, 0]``
would be the same stream.
"""

from __future__ import annotations

import zlib

import numpy as np


def sequence(seed: int, use: str, *index: int) -> np.random.SeedSequence:
    """Seed sequence of one use, which must always have the same number of indices (0 or more)."""
    return np.random.SeedSequence([seed, zlib.crc32(use.encode()), *index])


def generator(seed: int, use: str, *index: int) -> np.random.Generator:
    """NumPy generator of one use."""
    return np.random.default_rng(sequence(seed, use, *index))


def word(seed: int, use: str, *index: int) -> int:
    """Number below 2^63 of one use, to seed the generators of other libraries."""
    return int(sequence(seed, use, *index).generate_state(1, np.uint64)[0] >> np.uint64(1))
