"""What plays episodes: the contract of a collector, and what it is given and gives."""

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
    """Where the policy acts: a copy in every worker, or one that serves torch-free workers.
    `auto` takes `served` for a policy on a GPU and `workers` on CPU."""
    workers: int = 0
    """Number of worker processes; 0 means one per CPU core."""
    max_in_flight: int = 512
    """Most episodes that are open at once, over all workers."""
    timeout: float = 180.0
    """Seconds of silence after which a busy worker counts as hung and is restarted."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers must be 0 (one per core) or more, got {self.workers}")
        if self.max_in_flight < 1:
            raise ValueError(f"max_in_flight must be at least 1, got {self.max_in_flight}")
        if not self.timeout > 0:
            raise ValueError(f"timeout must be positive (seconds), got {self.timeout}")


class Rollout(NamedTuple):
    """What a collection gave.

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
    """Plays pairs of spec and key under the weights of a policy, wherever it likes.

    An episode is a function of its spec, its key and the weights, so a collector may play it again,
    or somewhere else, when something fails.
    """

    @property
    def workers(self) -> int:
        """How many processes simulate."""

    @property
    def lost(self) -> int:
        """How many workers died or hung and were replaced so far."""

    @property
    def retried(self) -> int:
        """How many episodes raised and were played again so far."""

    def collect(
        self,
        policy: Policy,
        specs: Sequence[EpisodeSpec],
        keys: Sequence[int],
        settings: PlaySettings,
        on_episode: OnEpisode = _quiet,
    ) -> Rollout:
        """Play every spec once, in order. Equal specs stand together (they form a group).

        Raises:
            RuntimeError: If episodes fail again and again.
        """

    def record(
        self, specs: Sequence[EpisodeSpec], on_episode: OnEpisode = _quiet
    ) -> list[Demonstration]:
        """Expert demonstrations in the order of the specs."""

    def retrace(self, trajectories: Sequence[Trajectory]) -> list[Demonstration]:
        """Episodes that a policy played, with what was to be seen at every step of them."""

    def film(
        self, settings: object, episodes: Sequence[tuple[EpisodeSpec, Floats]]
    ) -> list[list[np.ndarray]]:
        """Frames of episodes (spec and its ``[L, A]`` actions) under other settings."""


def episode_keys(seed: int, use: str, *index: int, count: int) -> list[int]:
    """``count`` noise keys of a run for one use; equal arguments give equal keys."""
    words = seeding.sequence(seed, use, *index).generate_state(count, np.uint64)
    return [int(word >> np.uint64(1)) for word in words]  # fits a signed 64-bit integer
