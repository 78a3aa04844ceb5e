"""Rollouts on this machine: workers that simulate, with a policy in each or one that serves all.

``workers`` placement: every worker has a copy of the policy and batches over its slots; nothing is
exchanged per step. Best on CPU. ``served`` placement: one batched policy in this process serves
workers without torch. Best on a GPU. Both give the caller the same interface.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast

import numpy as np

from vla_rl import plugins
from vla_rl.policy import Policy
from vla_rl.rollout.collector import OnEpisode, Rollout, RolloutConfig, _quiet
from vla_rl.rollout.play import PlaySettings, play
from vla_rl.rollout.policy_worker import PolicyRecipe, PolicyWorkerFactory, Published
from vla_rl.rollout.served import ServedSimulation, owners
from vla_rl.rollout.simulation_worker import SimulationWorkerFactory, WorkerFactory
from vla_rl.rollout.weights import SharedWeights
from vla_rl.rollout.worker_pool import Job, WorkerFailed, WorkerLost, WorkerPool, cores
from vla_rl.types import Demonstration, EpisodeSpec, Floats, Timing, Trajectory

PARTS = ("physics", "render", "transfer", "policy")


MAX_RESTARTS = 3  # per call; losing a worker more often ends the run


class LocalCollector:
    """Owns the workers of one suite on this machine; use it as a context manager."""

    def __init__(self, suite: str, settings: object, config: RolloutConfig, device: str) -> None:
        """Start the workers.

        Args:
            suite: Plug-in name of the suite.
            settings: The suite's ``Settings``.
            config: Settings of the collection.
            device: Device of the policy (``"cpu"``, ``"cuda"``).
        """
        self.suite, self.settings = suite, settings
        module = plugins.load("envs", suite)
        self._spaces = module.spaces(settings)
        placement = config.placement
        if placement == "auto":
            placement = "workers" if device == "cpu" else "served"
        self.placement = placement
        self._config = config
        in_workers = placement == "workers"
        factory: WorkerFactory = (
            PolicyWorkerFactory(suite, settings)
            if in_workers
            else SimulationWorkerFactory(suite, settings)
        )
        kind = "policy_worker" if in_workers else "simulation_worker"
        worker_module = f"vla_rl.rollout.{kind}"
        self._pool = WorkerPool(
            factory, config.workers or cores(), config.timeout, [worker_module, module.__name__]
        )
        self._weights: SharedWeights | None = None
        self._recipe: PolicyRecipe | None = None

    @property
    def workers(self) -> int:
        """Number of workers."""
        return len(self._pool)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return self._pool.pids

    @property
    def lost(self) -> int:
        """Number of workers that died or hung and were replaced so far."""
        return self._pool.lost

    @property
    def retried(self) -> int:
        """Number of episodes that raised and were played again so far."""
        return self._pool.failures.total

    def collect(
        self,
        policy: Policy,
        specs: Sequence[EpisodeSpec],
        keys: Sequence[int],
        settings: PlaySettings,
        on_episode: OnEpisode = _quiet,
    ) -> Rollout:
        """Play every spec once. Equal specs should be adjacent (they form a group).

        A worker that dies, hangs or raises is replaced and its episodes are played again, with the
        same result, because an episode depends on spec, key and weights only.

        Raises:
            WorkerFailed: If an episode raises twice, or too many do.
            WorkerLost: If a worker is lost too often.
        """
        self._pool.failures.begin()
        one_wave = self._play_in_workers if self.placement == "workers" else self._play_served
        trajectories: list[Trajectory] = []
        timing = Timing()
        published = self._publish(policy) if self.placement == "workers" else None
        for first in range(0, len(specs), self._config.max_in_flight):
            wave = slice(first, first + self._config.max_in_flight)
            began = time.perf_counter()
            played, seconds = one_wave(
                policy, published, specs[wave], keys[wave], settings, on_episode
            )
            trajectories += played
            seconds["transfer"] = time.perf_counter() - began - sum(seconds.values())
            for part, spent in seconds.items():
                timing.add(part, max(spent, 0.0))
        return Rollout(trajectories, {part: timing.seconds.get(part, 0.0) for part in PARTS})

    def record(
        self, specs: Sequence[EpisodeSpec], on_episode: OnEpisode = _quiet
    ) -> list[Demonstration]:
        """Expert demonstrations in the order of the specs."""
        return self._recorded("record", specs, on_episode)

    def retrace(self, trajectories: Sequence[Trajectory]) -> list[Demonstration]:
        """Demonstrations from episodes that a policy played, with an observation at every step.

        A policy observes only at its decisions, so the episodes are replayed from their starts.
        """
        episodes = [(t.spec, t.chunk.actions[t.executed]) for t in trajectories]
        return self._recorded("retrace", episodes, _quiet)

    def _recorded(
        self, method: str, orders: Sequence[object], on_episode: OnEpisode
    ) -> list[Demonstration]:
        """Let the workers record one demonstration for every order."""
        self._pool.failures.begin()
        dealt = [list(range(w, len(orders), self.workers)) for w in range(self.workers)]
        jobs = [Job(method, ([orders[i] for i in mine],)) for mine in dealt if mine]
        answers = self._pool.run(jobs, lambda index, beat: on_episode("", bool(beat)))
        recorded: dict[int, Demonstration] = {}
        for mine, answer in zip(dealt, answers, strict=False):
            recorded.update(zip(mine, answer, strict=True))  # type: ignore[call-overload]
        return [recorded[i] for i in range(len(orders))]

    def film(
        self, settings: object, episodes: Sequence[tuple[EpisodeSpec, Floats]]
    ) -> list[list[np.ndarray]]:
        """Frames of replayed episodes (spec and ``[L, A]`` actions) with other suite settings."""
        self._pool.failures.begin()
        clips: list[list[np.ndarray]] = []
        for first in range(0, len(episodes), self.workers):
            jobs = [
                Job("replay", (settings, spec, actions))
                for spec, actions in episodes[first : first + self.workers]
            ]
            clips += self._pool.run(jobs)  # type: ignore[arg-type]
        return clips

    def close(self) -> None:
        """Stop the workers and remove shared memory."""
        self._pool.close()
        if self._weights is not None:
            self._weights.close()
            self._weights = None

    def __enter__(self) -> LocalCollector:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _play_in_workers(
        self,
        policy: Policy,
        published: Published | None,
        specs: Sequence[EpisodeSpec],
        keys: Sequence[int],
        settings: PlaySettings,
        on_episode: OnEpisode,
    ) -> tuple[list[Trajectory], dict[str, float]]:
        owner = owners(specs, self.workers)
        dealt = [np.flatnonzero(owner == worker).tolist() for worker in range(self.workers)]
        jobs = [
            Job("play", (published, [specs[i] for i in mine], [keys[i] for i in mine], settings))
            for mine in dealt
            if mine
        ]

        def heard(index: int, beat: object) -> None:
            if beat is not None:
                on_episode(*beat)  # type: ignore[misc]

        played: dict[int, Trajectory] = {}
        timing = Timing()
        for mine, answer in zip(dealt, self._pool.run(jobs, heard), strict=False):
            trajectories, seconds = cast("tuple[list[Trajectory], dict[str, float]]", answer)
            played.update(zip(mine, trajectories, strict=True))
            for part, spent in seconds.items():
                timing.add(part, spent / len(jobs))
        return [played[i] for i in range(len(specs))], timing.seconds

    def _play_served(
        self,
        policy: Policy,
        published: Published | None,
        specs: Sequence[EpisodeSpec],
        keys: Sequence[int],
        settings: PlaySettings,
        on_episode: OnEpisode,
    ) -> tuple[list[Trajectory], dict[str, float]]:
        lost, failed = 0, None
        while True:
            simulation = ServedSimulation(self._pool, self._spaces, len(specs), settings.last_look)
            timing = Timing()
            try:
                played = play(
                    policy,
                    simulation,
                    specs,
                    keys,
                    settings,
                    timing,
                    on_finished=lambda t: on_episode(t.spec.task.id, t.share_done),
                )
                return played, {**timing.seconds, **_unhidden(simulation.timing)}
            except WorkerLost:
                lost += 1
                if lost > MAX_RESTARTS:
                    raise
                self._pool.lost += 1
            except WorkerFailed as error:
                self._pool.failures.count(error, failed)
                failed = error.what
            finally:
                simulation.close()
            # The slots of that worker are gone, and messages of the others may be out of order, so
            # all of these episodes start over with new workers.
            self._pool.replace_all()

    def _publish(self, policy: Policy) -> Published:
        recipe = PolicyRecipe.of(policy)
        if self._weights is None or recipe != self._recipe:
            if self._weights is not None:
                self._weights.close()
            self._weights, self._recipe = SharedWeights(policy), recipe
        return Published(
            recipe=recipe,
            weights=self._weights.publish(policy),
            frozen=policy.frozen,
            density=policy.density,
            text_memory=dict(policy.text_memory),
        )


def _unhidden(timing: Timing) -> dict[str, float]:
    """Time for which the policy had to wait for physics and rendering (the rest overlapped)."""
    busy = timing.seconds.get("physics", 0.0) + timing.seconds.get("render", 0.0)
    share = min(1.0, timing.seconds.get("waiting", 0.0) / busy) if busy else 0.0
    return {part: share * timing.seconds.get(part, 0.0) for part in ("physics", "render")}
