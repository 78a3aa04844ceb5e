"""Random generators by purpose, so that no two uses of one run's seed share their numbers.

A generator is named by the run's seed, a word that says what it is for, and indices such as the
iteration. ``SeedSequence`` takes trailing zeros for nothing, so without the word ``[seed]`` and
``[seed, 0]`` would be one stream.
"""

from __future__ import annotations

import zlib

import numpy as np


def sequence(seed: int, use: str, *index: int) -> np.random.SeedSequence:
    """The seed sequence of one use; a use always has the same number of indices (0 or more)."""
    return np.random.SeedSequence([seed, zlib.crc32(use.encode()), *index])


def generator(seed: int, use: str, *index: int) -> np.random.Generator:
    """NumPy's generator for one use."""
    return np.random.default_rng(sequence(seed, use, *index))


def word(seed: int, use: str, *index: int) -> int:
    """A number below 2^63 for one use, to seed generators of other libraries."""
    return int(sequence(seed, use, *index).generate_state(1, np.uint64)[0] >> np.uint64(1))
