"""A pool of worker processes that is robust against simulators that crash or hang.

Nothing here imports torch. A worker does one job after another; the parent receives its results,
heartbeats and exceptions, and notices when it dies or hangs. After an exception, a crash or a hang
a new worker runs the job again; an exception that recurs, or is frequent, is raised in the parent.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import NamedTuple, cast

from vla_rl.rollout.messages import receive, send
from vla_rl.rollout.simulation_worker import WorkerFactory
from vla_rl.rollout.slots import EpisodeFailed


class Job(NamedTuple):
    """A method of the worker and its arguments."""

    method: str
    arguments: tuple[object, ...]


class WorkerFailed(RuntimeError):
    """A worker raised an exception; its traceback is the message.

    Attributes:
        what: The episode that failed or, outside of one, the job.
    """

    def __init__(self, message: str, what: str) -> None:
        super().__init__(message)
        self.what = what


class WorkerLost(RuntimeError):
    """A worker died or stopped responding."""


MOST_FAILURES = 3
"""Failures that are allowed in one call of the collector, and in a short run."""
MOST_FAILING = 0.1
"""Share of all jobs that may fail in a longer run."""


@dataclass
class Failures:
    """Counts how often simulators raised: rare failures are tolerated, frequent ones are not.

    Attributes:
        jobs: Number of jobs so far.
        total: Number of jobs that failed and were run again.
        lately: Number of these since :meth:`begin`.
    """

    jobs: int = 0
    total: int = 0
    lately: int = 0

    def begin(self) -> None:
        """Begin another call of the collector, for instance another iteration of training."""
        self.lately = 0

    def count(self, error: WorkerFailed, before: str | None) -> None:
        """Count a failure; return normally if the job should be run again.

        Args:
            error: The failure.
            before: The episode or job that failed in the previous attempt.

        Raises:
            WorkerFailed: If the same episode failed before, or too many did.
        """
        if error.what == before:
            raise error
        self.total += 1
        self.lately += 1
        if self.lately > MOST_FAILURES or self.total > max(MOST_FAILURES, MOST_FAILING * self.jobs):
            raise WorkerFailed(
                f"{error}\n{self.total} failures in {self.jobs} jobs, {self.lately} of them just "
                "now: too many to continue by running them again",
                error.what,
            ) from error


# Ctrl-C, torchrun and batch systems signal every process of a job, but only the parent reacts: it
# finishes the iteration, for which it needs its workers.
_ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Processes started inside have the signals that end a job blocked, until they unblock them."""
    resource_tracker.ensure_running()  # started inside, it would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, factory: WorkerFactory) -> None:
    """Main function of a worker process."""
    for number in _ENDING:  # not SIG_IGN, which child processes would inherit
        signal.signal(number, lambda number, frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    try:
        worker = factory(lambda payload: send(connection, ("beat", payload)))
        while True:
            job = receive(connection)
            assert isinstance(job, Job)
            send(connection, _answer(worker, job))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone, or closed the pipe
    # Software GL prints errors from destructors at interpreter exit, and nothing is left to save.
    os._exit(0)


def _answer(worker: object, job: Job) -> tuple[str, object]:
    """Do a job and return its result, or its exception in place of one."""
    try:
        return "done", getattr(worker, job.method)(*job.arguments)
    except (BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:
        what = str(error.spec) if isinstance(error, EpisodeFailed) else job.method
        return "failed", (what, traceback.format_exc())


@dataclass
class _Member:
    process: ForkServerProcess
    connection: Connection
    heard: float


class WorkerPool:
    """A fixed number of workers.

    Args:
        factory: Makes the worker object in the new process.
        count: Number of workers.
        timeout: Seconds without a message after which a busy worker counts as hung.
        preload: Modules that the fork server imports once, so that workers start quickly.
        restarts: How often a worker may be lost on the same job before giving up.

    Attributes:
        lost: Number of workers that died or hung and were replaced.
        failures: Jobs that raised and were run again.
    """

    def __init__(
        self,
        factory: WorkerFactory,
        count: int,
        timeout: float,
        preload: Sequence[str],
        restarts: int = 3,
    ) -> None:
        self._factory = factory
        self._timeout = timeout
        self._restarts = restarts
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["__main__", *preload])
        self._members = [self._start() for _ in range(count)]
        self.lost = 0
        self.failures = Failures()

    def __len__(self) -> int:
        return len(self._members)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [int(member.process.pid or 0) for member in self._members]

    def run(
        self, jobs: Sequence[Job], on_beat: Callable[[int, object], None] = lambda index, beat: None
    ) -> list[object]:
        """Give job i to worker i, wait for all and return their results.

        A job that raises is run again by a new worker, which is counted in ``failures``.

        Raises:
            WorkerFailed: If the same episode (or the same job outside of one) raised twice, or too
                many did.
            WorkerLost: If a worker was lost more than ``restarts`` times on its job.
        """
        if len(jobs) > len(self._members):
            raise ValueError(f"{len(jobs)} jobs for {len(self._members)} workers")
        answers: dict[int, object] = {}
        losses = [0] * len(jobs)
        failed: dict[int, str] = {}
        self.failures.jobs += len(jobs)
        waiting = dict(enumerate(jobs))
        for index, job in waiting.items():
            self._send_or_replace(index, job)
        while waiting:
            for index in self._ready(list(waiting)):
                try:
                    kind, payload = self.receive(index)
                except WorkerLost:
                    losses[index] += 1
                    if losses[index] > self._restarts:
                        raise
                    self.lost += 1
                    self._again(index, waiting[index])
                    continue
                except WorkerFailed as error:
                    self.failures.count(error, failed.get(index))
                    failed[index] = error.what
                    self._again(index, waiting[index])
                    continue
                if kind == "beat":
                    on_beat(index, payload)
                else:
                    answers[index] = payload
                    del waiting[index]
        return [answers[index] for index in range(len(jobs))]

    def send(self, index: int, job: Job) -> None:
        """Give a job to one worker without waiting.

        Raises:
            WorkerLost: If it is dead.
        """
        member = self._members[index]
        member.heard = time.monotonic()
        try:
            send(member.connection, job)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise WorkerLost(f"worker {index} died") from error

    def receive(self, index: int) -> tuple[str, object]:
        """The next message of one worker, ``("beat" | "done", payload)``.

        Raises:
            WorkerFailed: If it raised.
            WorkerLost: If it died or stopped responding.
        """
        member = self._members[index]
        left = self._timeout - (time.monotonic() - member.heard)
        try:
            if not member.connection.poll(max(left, 0.0)):
                raise WorkerLost(f"worker {index} was silent for {self._timeout:.0f} s")
            message = receive(member.connection)
        except (EOFError, ConnectionResetError) as error:
            member.process.join(1.0)
            code = member.process.exitcode
            raise WorkerLost(f"worker {index} died (exit code {code})") from error
        member.heard = time.monotonic()
        kind, payload = cast("tuple[str, object]", message)
        if kind == "failed":
            what, raised = cast("tuple[str, str]", payload)
            raise WorkerFailed(f"worker {index} failed:\n{raised}", what)
        return kind, payload

    def replace(self, index: int) -> None:
        """Kill a worker, if it is still alive, and start a new one in its place."""
        self._stop(self._members[index])
        self._members[index] = self._start()

    def replace_all(self) -> None:
        """Replace all workers by new ones."""
        for index in range(len(self._members)):
            self.replace(index)

    def close(self) -> None:
        """Stop every worker; none outlives this call."""
        for member in self._members:
            self._stop(member)
        self._members = []

    def _again(self, index: int, job: Job) -> None:
        self.replace(index)
        self._send_or_replace(index, job)

    def _send_or_replace(self, index: int, job: Job) -> None:
        try:
            self.send(index, job)
        except WorkerLost:
            self.lost += 1
            self.replace(index)
            self.send(index, job)

    def _ready(self, indices: list[int]) -> list[int]:
        """Workers that have sent a message, have died, or have exceeded the timeout."""
        silent = [time.monotonic() - self._members[i].heard for i in indices]
        patience = max(self._timeout - max(silent), 0.0)
        connections = {self._members[i].connection: i for i in indices}
        ready = [connections[c] for c in wait(list(connections), patience)]  # type: ignore[index]
        late = [i for i, s in zip(indices, silent, strict=True) if s >= self._timeout]
        return ready or late

    def _start(self) -> _Member:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._factory), daemon=True)
        with _signals_blocked():  # the fork server starts with its first process
            process.start()
        theirs.close()
        return _Member(process, ours, time.monotonic())

    def _stop(self, member: _Member) -> None:
        member.connection.close()
        if member.process.is_alive():
            member.process.kill()
        member.process.join()


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))
