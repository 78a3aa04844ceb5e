"""Tests share a small machine: one thread for every numerical library."""

from __future__ import annotations

import os

for _library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may wait for a hub

import pytest  # noqa: E402
import torch  # noqa: E402  (reads the variables above)

# Failed asserts of helpers show their values as those of tests do.
pytest.register_assert_rewrite(
    "tests.demos.helpers", "tests.helpers", "tests.learning.helpers", "tests.rollout.helpers"
)

torch.set_num_threads(1)
