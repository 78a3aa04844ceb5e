"""A worker with its own copy of the policy: simulation and decisions in one process.

It loads weights whenever the learner has published new ones.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from vla_rl.policy import Policy
from vla_rl.rollout.play import LocalSimulation, PlaySettings, play
from vla_rl.rollout.simulation_worker import Beat, SimulationWorker
from vla_rl.rollout.weights import Weights
from vla_rl.types import EpisodeSpec, Spaces, Timing, Trajectory

_BETWEEN_SIGNS = 0.1
"""Seconds between two heartbeats, far below any sensible ``--rollout.timeout``."""


@dataclass(frozen=True)
class PolicyRecipe:
    """How to rebuild a policy in another process."""

    module: str
    config: object
    spaces: Spaces

    @classmethod
    def of(cls, policy: Policy) -> PolicyRecipe:
        """The recipe of a policy."""
        return cls(type(policy).__module__, policy.config, policy.spaces)

    def build(self) -> Policy:
        """Build the policy; its weights will be overwritten."""
        made: Policy = importlib.import_module(self.module).Policy.blank(self.config, self.spaces)
        return made


@dataclass(frozen=True)
class Published:
    """Everything that acting depends on.

    Attributes:
        recipe: How to build the policy.
        weights: Where to find the weights.
        frozen: Names of the frozen parameter groups.
        density: Density of the log-probabilities.
        text_memory: Text features by instruction.
    """

    recipe: PolicyRecipe
    weights: Weights
    frozen: frozenset[str]
    density: str
    text_memory: dict[str, np.ndarray]


@dataclass
class PolicyWorker(SimulationWorker):
    """Adds :meth:`play` to the jobs of a :class:`SimulationWorker`."""

    _policy: Policy | None = None
    _recipe: PolicyRecipe | None = None
    _loaded: Weights | None = None
    _text: dict[str, np.ndarray] = field(default_factory=dict)
    _heard: float = 0.0

    def play(
        self,
        published: Published,
        specs: Sequence[EpisodeSpec],
        keys: Sequence[int],
        settings: PlaySettings,
    ) -> tuple[list[Trajectory], dict[str, float]]:
        """Play every spec with the published policy; also returns seconds by part."""
        timing = Timing()
        self.pool.timing = timing
        self.pool.last_look = settings.last_look
        trajectories = play(
            self._current(published),
            LocalSimulation(self.pool),
            specs,
            keys,
            settings,
            timing,
            on_finished=lambda t: self.beat((t.spec.task.id, t.share_done)),
            on_round=self._live,
        )
        return trajectories, timing.seconds

    def _live(self) -> None:
        """Send a heartbeat, but not too often, because each one wakes the parent."""
        now = time.monotonic()
        if now - self._heard >= _BETWEEN_SIGNS:
            self._heard = now
            self.beat(None)

    def _current(self, published: Published) -> Policy:
        if self._policy is None or self._recipe != published.recipe:
            torch.set_num_threads(1)  # one core per worker; more threads would only wait
            self._recipe, self._policy = published.recipe, published.recipe.build()
            self._loaded = None
        if self._loaded != published.weights:
            published.weights.load(self._policy)
            self._loaded = published.weights
        self._policy.freeze(published.frozen)
        self._policy.use_density(published.density)
        self._policy.text_memory = published.text_memory
        return self._policy


@dataclass(frozen=True)
class PolicyWorkerFactory:
    """Makes a :class:`PolicyWorker`."""

    suite: str
    settings: object

    def __call__(self, beat: Beat) -> PolicyWorker:
        """Called once in the new process."""
        return PolicyWorker(self.suite, self.settings, beat)
