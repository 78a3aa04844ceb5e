"""Small things that several tests build on."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import torch

from vla_rl.commands._parts import Parts
from vla_rl.config import kinds
from vla_rl.demos.chunks import ChunkDataset
from vla_rl.envs import point_reach
from vla_rl.episode_end import EpisodeEnd
from vla_rl.plugins import unknown
from vla_rl.policies import tiny
from vla_rl.policies._heads.config import Head
from vla_rl.rewards import rewarded, sparse
from vla_rl.rollout.play import LocalSimulation, PlaySettings, play
from vla_rl.rollout.slots import SlotPool
from vla_rl.sft import Cloning, SFTConfig
from vla_rl.types import Group, RolloutBatch, Timing, Trajectory
from vla_rl.world import World

SPARSE = {"sparse": sparse.Reward()}
WORLD = World("point_reach", ("red", "green", "blue"), max_steps=(20,))


def composed(kind, **settings):
    """Settings of a policy out of a flat list: each goes to the part of the policy that has it.

    ``head`` and ``backbone`` say which kind those are. What also has a setting of that name beside
    the parts is given to the backbone as ``backbone_NAME``.
    """
    beside = {field.name for field in fields(kind)}
    parts = {}
    for part, known in Parts.of(kind, "net").kinds.items():
        usual = getattr(kind(), part)
        name = settings.pop(part, None if usual is None else usual.name)
        if name is None:
            continue
        if name.partition(":")[0] not in known:
            raise ValueError(unknown(part, name, known))
        chosen = known[name.partition(":")[0]]
        own = {field.name for field in fields(chosen)} - {"name"}
        given = {key: settings.pop(key) for key in own - beside if key in settings}
        given |= {key: settings.pop(f"{part}_{key}") for key in own if f"{part}_{key}" in settings}
        parts[part] = chosen(name=name, **given)
    return kind(**settings, **parts)


def head_config(head: str = "gaussian", **settings):
    """Settings of a head by its name."""
    return kinds(Head)[head](**settings)


def make_policy(**settings) -> tiny.Policy:
    """A small policy for the stand-in suite, the same every time."""
    torch.manual_seed(0)
    usual = (
        {"chunk": 3} if settings.get("head", "").startswith("flow") else {"chunk": 3, "std": 0.4}
    )
    policy = tiny.Policy(
        composed(tiny.Config, **{**usual, **settings}),
        point_reach.spaces(point_reach.Settings()),
    )
    policy.remember([task.instruction for task in point_reach.tasks()])
    return policy


def fresh(algorithm):
    """The state of a run on the stand-in suite before its first update."""
    return algorithm.new_state(WORLD.resolve().tasks)


def fit(policy, data: ChunkDataset, config: SFTConfig, seed: int = 0) -> list[float]:
    """Fit a fresh policy to demonstrations; returns the loss of every gradient step."""
    losses: list[float] = []
    policy.fit_statistics(data.obs.state)
    Cloning(policy, data, config, seed).run(lambda _, metrics: losses.append(metrics["sft/loss"]))
    return losses


def play_groups(policy, groups: int, size: int, use="train", **settings) -> list[Group]:
    """Groups of ``size`` episodes from new starts, played in this process with sparse reward."""
    specs = [spec for spec in WORLD.resolve().specs(use, groups // 3) for _ in range(size)]
    simulation = LocalSimulation(SlotPool("point_reach", point_reach.Settings()))
    played = play(policy, simulation, specs, range(len(specs)), PlaySettings(**settings), Timing())
    made = [played[i : i + size] for i in range(0, len(played), size)]
    return rewarded(made, SPARSE, EpisodeEnd())


def fake_returns(group: Group, returns: list[float]) -> Group:
    """The group with the given total rewards."""

    def paid(t: Trajectory, total: float) -> Trajectory:
        reward = np.zeros(t.decisions, np.float32)
        reward[-1] = total
        return replace(t, reward=reward)

    return [paid(t, total) for t, total in zip(group, returns, strict=True)]


def packed(policy, groups: int = 3, size: int = 4) -> RolloutBatch:
    """A batch with contrast in every group."""
    played = play_groups(policy, groups, size)
    returns = [float(i % 2) for i in range(size)]
    return RolloutBatch.pack([fake_returns(group, returns) for group in played])
