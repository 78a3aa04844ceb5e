"""The jobs of a worker process that simulates, and the memory that it shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.shared_memory import SharedMemory
from typing import Protocol

import numpy as np

from vla_rl.rollout.slots import LastLook, SlotPool, replay
from vla_rl.types import Demonstration, EpisodeSpec, Floats, Observation, Spaces

Beat = Callable[[object], None]


@dataclass
class SimulationWorker:
    """A worker that simulates, without torch; every public method is a job.

    Attributes:
        suite: Plug-in name of the suite.
        settings: The suite's ``Settings``.
        beat: Sends a heartbeat with a small payload to the parent.
    """

    suite: str
    settings: object
    beat: Beat
    pool: SlotPool = field(init=False)
    _shared: SharedObservations | None = None

    def __post_init__(self) -> None:
        self.pool = SlotPool(self.suite, self.settings)

    def record(self, specs: Sequence[EpisodeSpec]) -> list[Demonstration]:
        """Record one expert demonstration per spec."""
        demonstrations = []
        for spec in specs:
            demonstrations.append(self.pool.record(spec))
            self.beat(demonstrations[-1].success)
        return demonstrations

    def retrace(self, episodes: Sequence[tuple[EpisodeSpec, Floats]]) -> list[Demonstration]:
        """Record episodes that a policy played, from starts and ``[L, A]`` actions."""
        demonstrations = []
        for spec, actions in episodes:
            demonstrations.append(self.pool.retrace(spec, actions))
            self.beat(demonstrations[-1].success)
        return demonstrations

    def replay(self, settings: object, spec: EpisodeSpec, actions: Floats) -> list[np.ndarray]:
        """Frames of an episode, ``[L + 1]`` times ``[h, w, 3]`` uint8."""
        return replay(self.suite, settings, spec, actions)

    def begin(
        self, rows: list[int], specs: Sequence[EpisodeSpec], shared: SharedLayout, last: LastLook
    ) -> Floats:
        """Open slots; write first observations to shared rows; return progress ``[B]``."""
        if self._shared is None or self._shared.layout != shared:
            self._shared = SharedObservations(shared)
        self.pool.last_look = last
        obs, progress = self.pool.begin(specs)
        self._shared.write(rows, obs)
        return progress

    def execute(
        self, rows: list[int], slots: list[int], actions: Floats
    ) -> tuple[object, dict[str, float]]:
        """Execute chunks in slots; observations go to shared rows, the rest is returned."""
        assert self._shared is not None
        result = self.pool.execute(slots, actions)
        self._shared.write(rows, result.obs)
        seconds, self.pool.timing.seconds = self.pool.timing.seconds, {}
        light = (result.reward, result.last_reward, result.executed, result.progress)
        end = (result.success, result.completed, result.truncated, result.done)
        return (*light, *end), seconds


class WorkerFactory(Protocol):
    """Makes the object whose methods are the jobs; must be picklable."""

    def __call__(self, beat: Beat) -> object:
        """Called once in the new process."""


@dataclass(frozen=True)
class SimulationWorkerFactory:
    """Makes a :class:`SimulationWorker`."""

    suite: str
    settings: object

    def __call__(self, beat: Beat) -> SimulationWorker:
        """Called once in the new process."""
        return SimulationWorker(self.suite, self.settings, beat)


@dataclass(frozen=True)
class SharedLayout:
    """Name and shape of a shared block of observations."""

    name: str
    rows: int
    spaces: Spaces

    @property
    def image_shape(self) -> tuple[int, ...]:
        """``[rows, V, h, w, 3]``."""
        size = self.spaces.image_size
        return (self.rows, len(self.spaces.views), size, size, 3)

    @property
    def bytes(self) -> int:
        """Size of the block."""
        return int(np.prod(self.image_shape)) + 4 * self.rows * self.spaces.state_dim


class SharedObservations:
    """A block of observations that env workers write and the policy's process reads."""

    def __init__(self, layout: SharedLayout, create: bool = False) -> None:
        """Attach to the block, or create it."""
        self.layout = layout
        self._segment = SharedMemory(layout.name, create=create, size=max(layout.bytes, 1))
        self._owner = create
        images = int(np.prod(layout.image_shape))
        self.images = np.ndarray(layout.image_shape, np.uint8, self._segment.buf)
        self.state = np.ndarray(
            (layout.rows, layout.spaces.state_dim), np.float32, self._segment.buf, images
        )

    def write(self, rows: Sequence[int], obs: Observation) -> None:
        """Write B observations to these rows."""
        self.images[rows] = obs.images
        self.state[rows] = obs.state

    def read(self, rows: np.ndarray) -> Observation:
        """Return a copy of these rows."""
        return Observation(self.images[rows], self.state[rows])

    def close(self) -> None:
        """Detach; the owner also removes the block."""
        del self.images, self.state
        self._segment.close()
        if self._owner:
            self._segment.unlink()
