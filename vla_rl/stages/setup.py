"""Setting up what a stage needs: device, rewards, policy, workers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, get_args

import numpy as np
import torch

from vla_rl import plugins
from vla_rl.config import from_json, to_json
from vla_rl.curricula import Curriculum
from vla_rl.episode_end import Pays
from vla_rl.learning.distributed import ALONE, Ranks
from vla_rl.learning.running_moments import RunningMoments
from vla_rl.policy import PolicyBase
from vla_rl.rewards import Reward, settings_types
from vla_rl.rollout.collector import Collector, RolloutConfig, episode_keys
from vla_rl.rollout.local_collector import LocalCollector
from vla_rl.rollout.play import PlaySettings
from vla_rl.rollout.worker_pool import cores
from vla_rl.types import Spaces, Task
from vla_rl.world import Arena

WARM_UP_EPISODES = 4
"""Episodes that a policy with fresh weights plays before training, over all tasks."""


def pick_device(name: str) -> str:
    """The torch device for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ValueError: For any other name, or for a GPU that does not exist.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"unknown device {name!r}; allowed: auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was requested, but torch finds no GPU; see `vla-rl doctor`")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def curriculum_named(name: str, tasks: Sequence[Task], seed: int) -> Curriculum:
    """Make a curriculum over some tasks."""
    made: Curriculum = plugins.load("curricula", name).Curriculum(tasks, seed)
    return made


def rewards_named(names: Sequence[str], settings: Any = None) -> dict[str, Reward]:
    """Make rewards by name.

    Args:
        names: Names of reward plug-ins.
        settings: Holds the ``Reward`` of each with the user's settings, as an attribute called like
            the last part of its name; None for the defaults.

    Raises:
        ValueError: As :func:`vla_rl.rewards.settings_types`, or if ``pays`` of one is invalid.
    """
    found: dict[str, Reward] = {}
    for name, (short, kind) in zip(names, settings_types(names).items(), strict=True):
        # A copy, because the state of a reward belongs to one run.
        made: Reward = copy.deepcopy(getattr(settings, short, None)) or kind()
        if made.pays not in get_args(Pays):
            what = f"`pays` of reward {name!r}:"
            raise ValueError(plugins.unknown(what, made.pays, get_args(Pays)))
        found[name] = made
    return found


def plain_settings(network: str, settings: Any) -> Any:
    """Settings of a policy as its own ``Config``.

    Those of the command line are of classes that no module names, which workers could not read.
    """
    return from_json(plugins.load("policies", network).Config, to_json(settings))


def new_policy(network: str, settings: Any, spaces: Spaces, seed: int, device: str) -> PolicyBase:
    """Make a policy with fresh weights that depend on the seed only.

    Raises:
        ValueError: If a setting is invalid.
    """
    plain = plain_settings(network, settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy: PolicyBase = plugins.load("policies", network).Policy(plain, spaces)
    return policy.to(pick_device(device))


class WarmUpStatistics(NamedTuple):
    """Statistics of the warm-up episodes of a policy with fresh weights.

    Attributes:
        states: Mean and standard deviation of proprioception.
        env_steps: Environment steps of the episodes.
    """

    states: RunningMoments
    env_steps: int


def fit_state_statistics(
    collector: Collector, policy: PolicyBase, arena: Arena, seed: int
) -> WarmUpStatistics:
    """Play a few episodes with a new policy, and normalise its proprioception by their statistics.

    A cloned policy has the statistics of its demonstrations instead.
    """
    policy.remember(arena.instructions)
    count = max(1, WARM_UP_EPISODES // len(arena.tasks))
    specs = arena.specs("train", count)
    keys = episode_keys(seed, "first states", count=len(specs))
    episodes = collector.collect(policy, specs, keys, PlaySettings()).trajectories
    statistics = RunningMoments()
    statistics.add(np.concatenate([t.obs.state for t in episodes]))
    policy.set_statistics(statistics.mean, statistics.std)
    return WarmUpStatistics(statistics, sum(t.steps for t in episodes))


def open_collector(
    arena: Arena, config: RolloutConfig, policy: PolicyBase | None, ranks: Ranks = ALONE
) -> LocalCollector:
    """Start the workers for an arena, after checking that its suite can render.

    Ranks on one machine share its cores, unless the number of workers per rank is given.
    """
    arena.renderer()
    if ranks.size_here > 1 and not config.workers:
        config = replace(config, workers=max(1, cores() // ranks.size_here))
    device = "cpu" if policy is None else policy.state_mean.device.type
    return LocalCollector(arena.world.suite, arena.settings, config, device)
