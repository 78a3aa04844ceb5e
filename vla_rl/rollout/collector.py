"""The contract of a collector, which plays episodes, with its settings and its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

from vla_rl import seeding
from vla_rl.policy import Policy
from vla_rl.rollout.play import PlaySettings
from vla_rl.types import Demonstration, EpisodeSpec, Floats, Trajectory


@dataclass(frozen=True)
class RolloutConfig:
    """How episodes are collected."""

    placement: Literal["auto", "workers", "served"] = "auto"
    """Where the policy runs: a copy in every worker (`workers`), or one that serves workers without
    torch (`served`). `auto` is `served` for a policy on a GPU, and `workers` on CPU."""
    workers: int = 0
    """Number of worker processes; 0 for one per CPU core."""
    max_in_flight: int = 512
    """Largest number of episodes in progress at once, over all workers."""
    timeout: float = 180.0
    """Seconds without a message after which a busy worker counts as hung and is restarted."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers must be 0 (one per core) or more, got {self.workers}")
        if self.max_in_flight < 1:
            raise ValueError(f"max_in_flight must be at least 1, got {self.max_in_flight}")
        if not self.timeout > 0:
            raise ValueError(f"timeout must be positive (seconds), got {self.timeout}")


class Rollout(NamedTuple):
    """Result of a collection.

    Attributes:
        trajectories: In the order of the specs.
        seconds: Wall time split into physics, render, transfer and policy.
    """

    trajectories: list[Trajectory]
    seconds: dict[str, float]


OnEpisode = Callable[[str, float], None]
"""Called with task id and completed share (success as 0 or 1) of every finished episode."""


def _quiet(task: str, share: float) -> None:
    """Default callback: does nothing."""


class Collector(Protocol):
    """Plays episodes, given by a spec and a noise key each, with the weights of a policy.

    An episode is a function of its spec, its key and the weights, so a collector may play it again,
    or in another process, when something fails.
    """

    @property
    def workers(self) -> int:
        """Number of processes that simulate."""

    @property
    def lost(self) -> int:
        """Number of workers that died or hung and were replaced so far."""

    @property
    def retried(self) -> int:
        """Number of episodes that raised and were played again so far."""

    def collect(
        self,
        policy: Policy,
        specs: Sequence[EpisodeSpec],
        keys: Sequence[int],
        settings: PlaySettings,
        on_episode: OnEpisode = _quiet,
    ) -> Rollout:
        """Play every spec once, in order. Equal specs are adjacent (they form a group).

        Raises:
            RuntimeError: If episodes keep failing.
        """

    def record(
        self, specs: Sequence[EpisodeSpec], on_episode: OnEpisode = _quiet
    ) -> list[Demonstration]:
        """Expert demonstrations in the order of the specs."""

    def retrace(self, trajectories: Sequence[Trajectory]) -> list[Demonstration]:
        """Demonstrations from episodes that a policy played, with an observation at every step."""

    def film(
        self, settings: object, episodes: Sequence[tuple[EpisodeSpec, Floats]]
    ) -> list[list[np.ndarray]]:
        """Frames of replayed episodes (spec and ``[L, A]`` actions) with other suite settings."""


def episode_keys(seed: int, use: str, *index: int, count: int) -> list[int]:
    """Noise keys of a run for one use; equal arguments give equal keys."""
    words = seeding.sequence(seed, use, *index).generate_state(count, np.uint64)
    return [int(word >> np.uint64(1)) for word in words]  # fits a signed 64-bit integer
