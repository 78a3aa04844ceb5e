"""A small policy that practises without a simulator, and an algorithm that improves it.

An episode has a few decisions about random observations. It succeeds if the first number of its
first action is larger than the policy's preferred one, so an algorithm that works raises that.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vla_rl import plugins, seeding
from vla_rl.algorithms import Algorithm
from vla_rl.contract.finding import Broken
from vla_rl.learning.learner import Learner, LearnerConfig
from vla_rl.policy import Policy, PolicyBase
from vla_rl.stages.setup import new_policy
from vla_rl.types import (
    ActionChunk,
    EpisodeSpec,
    Floats,
    Group,
    Observation,
    RolloutBatch,
    Spaces,
    Task,
    Trajectory,
    seed_for,
)

NETWORK = "tiny"
SPACES = Spaces(views=("camera",), image_size=16, state_dim=3, action_dim=2)
DECISIONS = 3
EPISODES = 32
LEARNER = LearnerConfig(lr=1e-3, warmup_steps=0)


def _tasks(chunk: int) -> tuple[Task, ...]:
    return tuple(
        Task("practice", way, f"move {way}", max_steps=DECISIONS * chunk) for way in ("up", "on")
    )


@dataclass
class Practice:
    """An algorithm at work, as a run begins it.

    Attributes:
        algorithm: What is examined.
        policy: What it improves.
        learner: Its optimizer.
        tasks: What is practised.
        state: The algorithm's.
        updates: Made so far.
    """

    algorithm: Algorithm
    policy: PolicyBase
    learner: Learner
    tasks: Sequence[Task]
    state: Any
    updates: int = 0

    @classmethod
    def begin(cls, algorithm: Algorithm) -> Practice:
        """With the same fresh policy every time."""
        config = plugins.load("policies", NETWORK).Config()
        policy = new_policy(NETWORK, config, SPACES, seed=0, device="cpu")
        tasks = _tasks(policy.chunk)
        policy.remember([task.instruction for task in tasks])
        learner = Learner(policy, LEARNER, algorithm.trains)
        if algorithm.uses_reference:
            learner.reference = copy.deepcopy(policy).requires_grad_(False)
        density = algorithm.density_for(policy)
        for each in filter(None, (policy, learner.reference)):
            each.use_density(density)
        return cls(algorithm, policy, learner, tasks, algorithm.new_state(tasks))

    def play(self) -> list[Group]:
        """Groups of episodes, other ones before every update."""
        size = self.algorithm.group_size
        specs = [
            EpisodeSpec(self.tasks[i % len(self.tasks)], seed_for("train", i))
            for i in range(max(2, EPISODES // size))
        ]
        return [
            [self._episode(spec, index * size + member) for member in range(size)]
            for index, spec in enumerate(specs)
        ]

    def update(self, groups: Sequence[Group]) -> dict[str, float]:
        """Observe, keep what can teach something, and learn from it, as the loop does."""
        self.algorithm.observe(groups, self.state)
        kept = [group for group in groups if self.algorithm.keep(group)]
        if not kept:
            raise Broken(
                f"keep() drops all of {len(groups)} groups, in which some succeed and some fail",
                "keep groups whose returns differ",
            )
        return self.learn(RolloutBatch.pack(kept))

    def learn(self, batch: RolloutBatch) -> dict[str, float]:
        """One update from a batch."""
        rng = seeding.generator(0, "minibatches", self.updates)
        self.updates += 1
        return self.algorithm.update(self.learner, batch, self.state, rng)

    def preferred(self) -> float:
        """The mean of what is rewarded, over many observations without noise."""
        drawn = np.random.default_rng(1)
        words = [task.instruction for task in self.tasks] * 50
        chunk = self.policy.act(_observe(drawn, len(words)), words, None)
        return float(chunk.actions[:, 0, 0].mean())

    def _episode(self, spec: EpisodeSpec, index: int) -> Trajectory:
        drawn = np.random.default_rng([spec.seed, self.updates])
        first = _observe(drawn, 1)  # the same for all members of a group
        later = _observe(np.random.default_rng([index, self.updates, 1]), DECISIONS - 1)
        obs = Observation.concatenate([first, later])
        words = [spec.task.instruction] * DECISIONS
        key = seeding.word(0, "practice", self.updates, index)
        keys = np.array([[key, decision] for decision in range(DECISIONS)], np.int64)
        chunk = self.policy.act(obs, words, keys)
        wanted = self.policy.act(obs, words, None).actions[0, 0, 0]
        return _finished(spec, index, obs, chunk, bool(chunk.actions[0, 0, 0] > wanted))


def _observe(drawn: np.random.Generator, rows: int) -> Observation:
    side = SPACES.image_size
    images = drawn.integers(0, 256, (rows, len(SPACES.views), side, side, 3), dtype=np.uint8)
    return Observation(images, drawn.normal(size=(rows, SPACES.state_dim)).astype(np.float32))


def _finished(
    spec: EpisodeSpec, index: int, obs: Observation, chunk: ActionChunk, success: bool
) -> Trajectory:
    """An episode that ends inside a chunk, every third one after fewer decisions."""
    horizon = chunk.actions.shape[1]
    steps = (DECISIONS - (index % 3 == 2)) * horizon - index % min(3, horizon)
    executed = (np.arange(DECISIONS * horizon) < steps).reshape(DECISIONS, horizon)
    made = int(executed.any(axis=1).sum())
    reward = np.zeros(made, np.float32)
    reward[0] = success
    bootstrapped = index % 2 == 0
    return Trajectory(
        spec=spec,
        obs=obs[:made],
        chunk=chunk[:made],
        executed=executed[:made],
        env_reward=reward,
        reward=reward.copy(),
        progress=np.linspace(0, success, made + 1, dtype=np.float32),
        completed=np.zeros(made + 1, np.int64),
        final_value=float(chunk.value[-1]) if bootstrapped else 0.0,
        success=success,
        truncated=bootstrapped,
        policy_version=0,
        bootstrapped=bootstrapped,
    )


def paid(groups: Sequence[Group], total: float) -> list[Group]:
    """The groups with the same success and the same return for all, paid at the end."""

    def one(episode: Trajectory) -> Trajectory:
        reward: Floats = np.zeros_like(episode.reward)
        reward[-1] = total
        return replace(episode, reward=reward, success=True)

    return [[one(episode) for episode in group] for group in groups]


def spoilt(batch: RolloutBatch) -> RolloutBatch:
    """The batch with other numbers wherever nothing counts."""
    chunk = batch.chunk
    if chunk.raw.shape != batch.mask.shape:
        raise ValueError(f"{NETWORK} samples other numbers than one for each unit")
    away = np.float32(3)
    return replace(
        batch,
        chunk=replace(
            chunk,
            raw=np.where(batch.mask, chunk.raw, away),
            logprob=np.where(batch.mask, chunk.logprob, -away),
            value=np.where(batch.valid, chunk.value, away),
        ),
        final_value=np.where(batch.bootstrapped, batch.final_value, 100 * away),
    )


def weights(policy: Policy) -> dict[str, Tensor]:
    """Copies of all that a policy is."""
    return {name: tensor.clone() for name, tensor in policy.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[str]:
    """Names of the weights that are not the same to the last bit."""
    return [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
