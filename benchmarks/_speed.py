"""How often something can be done in a second, and the memory that its process held."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import torch


def per_second(job: Callable[[], None], seconds: float) -> float:
    """Repetitions in a second, measured over some seconds after a first one that is not counted."""
    job()
    _wait()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        job()
        _wait()
        count += 1
    return count / (time.perf_counter() - began)


def peak_gb() -> float:
    """Most memory so far, in GiB: of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
