"""Slots in worker processes without torch, served by one batched policy in this process.

Observations arrive in shared memory. The rows are split into two halves that take turns: while the
policy acts for one half, the workers simulate and render the other.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import cast

import numpy as np

from vla_rl.rollout.play import Rows
from vla_rl.rollout.simulation_worker import SharedLayout, SharedObservations
from vla_rl.rollout.slots import LastLook, StepResult
from vla_rl.rollout.worker_pool import Job, WorkerPool
from vla_rl.types import EpisodeSpec, Floats, Observation, Spaces, Timing

HALVES = 2


class ServedSimulation:
    """A :class:`vla_rl.rollout.play.Simulation` over a pool of env workers."""

    def __init__(self, pool: WorkerPool, spaces: Spaces, rows: int, last_look: LastLook) -> None:
        """Make the shared block for up to ``rows`` episodes in flight."""
        name = f"vla_rl_{uuid.uuid4().hex[:12]}"
        self._shared = SharedObservations(SharedLayout(name, rows, spaces), create=True)
        self._pool = pool
        self._last_look = last_look
        self._owner = np.zeros(0, np.int64)
        self._slot = np.zeros(0, np.int64)
        self.timing = Timing()

    def begin(self, specs: Sequence[EpisodeSpec]) -> tuple[Observation, Floats]:
        """See :class:`vla_rl.rollout.play.Simulation`; a group stays in one worker."""
        self._owner = owners(specs, len(self._pool))
        self._slot = np.zeros(len(specs), np.int64)
        busy = int(self._owner.max()) + 1  # workers are assigned in order
        mine = [np.flatnonzero(self._owner == worker) for worker in range(busy)]
        jobs = []
        for rows in mine:
            self._slot[rows] = np.arange(len(rows))
            starts = [specs[int(row)] for row in rows]
            layout = self._shared.layout
            jobs.append(Job("begin", (rows.tolist(), starts, layout, self._last_look)))
        progress = np.zeros(len(specs), np.float32)
        for rows, answer in zip(mine, self._pool.run(jobs), strict=True):
            progress[rows] = cast(Floats, answer)
        return self._shared.read(np.arange(len(specs))), progress

    def halves(self, count: int) -> list[Rows]:
        """Two halves in which every worker has rows, so that no worker is ever idle."""
        turn = np.zeros(count, np.int64)
        for worker in range(len(self._pool)):
            rows = np.flatnonzero(self._owner == worker)
            turn[rows] = np.arange(len(rows)) % HALVES
        return [rows for half in range(HALVES) if len(rows := np.flatnonzero(turn == half))]

    def submit(self, rows: Rows, actions: Floats) -> None:
        """See :class:`vla_rl.rollout.play.Simulation`."""
        for worker, index in self._by_worker(rows):
            mine = rows[index]
            arguments = (mine.tolist(), self._slot[mine].tolist(), actions[index])
            self._pool.send(worker, Job("execute", arguments))

    def receive(self, rows: Rows) -> StepResult:
        """See :class:`vla_rl.rollout.play.Simulation`."""
        parts: list[tuple[np.ndarray, tuple[np.ndarray, ...]]] = []
        began = time.perf_counter()
        for worker, index in self._by_worker(rows):
            _, answer = self._pool.receive(worker)
            values, seconds = cast("tuple[tuple[np.ndarray, ...], dict[str, float]]", answer)
            parts.append((index, values))
            for part, spent in seconds.items():
                self.timing.add(part, spent / len(self._pool))
        self.timing.add("waiting", time.perf_counter() - began)
        order = np.argsort(np.concatenate([index for index, _ in parts]))
        columns = zip(*(values for _, values in parts), strict=True)
        light = [np.concatenate(column)[order] for column in columns]
        return StepResult(self._shared.read(rows), *light)

    def close(self) -> None:
        """Remove the shared block."""
        self._shared.close()

    def _by_worker(self, rows: Rows) -> list[tuple[int, np.ndarray]]:
        """Workers that have some of the rows, with the positions of these in ``rows``."""
        owner = self._owner[rows]
        return [(int(worker), np.flatnonzero(owner == worker)) for worker in np.unique(owner)]


def owners(specs: Sequence[EpisodeSpec], workers: int) -> np.ndarray:
    """Worker of each spec ``[N]``: groups of equal specs are assigned to workers in turn."""
    starts = [i == 0 or spec != specs[i - 1] for i, spec in enumerate(specs)]
    return (np.cumsum(starts) - 1) % workers
