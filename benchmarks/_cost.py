"""A command in a process of its own, with the time it took and the memory it held."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

_EVERY = 0.5  # seconds between two looks


@dataclass(frozen=True)
class Cost:
    """What a command took.

    Attributes:
        seconds: Wall time.
        peak_gb: Most memory that it and its workers held at a time, in GiB; what several of them
            share is counted once.
    """

    seconds: float
    peak_gb: float


def run(note: Path, *words: str | Path) -> Cost:
    """Run ``vla-rl`` once: if ``note`` exists it was run before, and its cost is read from there.

    Raises:
        SystemExit: If the command fails.
    """
    if note.exists():
        return Cost(**json.loads(note.read_text()))
    began, peak, done = time.perf_counter(), [0.0], threading.Event()
    process = subprocess.Popen([sys.executable, "-m", "vla_rl", *map(str, words)])
    watch = threading.Thread(target=_watch, args=(process.pid, peak, done))
    watch.start()
    status = process.wait()
    done.set()
    watch.join()
    if status:
        raise SystemExit(status)
    cost = Cost(time.perf_counter() - began, peak[0])
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(asdict(cost)))
    return cost


def _watch(pid: int, peak: list[float], done: threading.Event) -> None:
    root = psutil.Process(pid)
    while not done.wait(_EVERY):
        held = 0.0
        try:
            for process in [root, *root.children(recursive=True)]:
                held += process.memory_full_info().pss / 2**30
        except psutil.Error:  # one of them has just ended
            continue
        peak[0] = max(peak[0], held)
