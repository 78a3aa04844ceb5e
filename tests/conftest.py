"""Tests share a small machine: one thread for every numerical library."""

from __future__ import annotations

import os

for _library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"

import torch  # noqa: E402  (reads the variables above)

torch.set_num_threads(1)
