"""What a stage needs before it begins: spaces, rewards, policy, workers."""

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
"""Episodes that a policy with fresh weights plays before training."""


def pick_device(name: str) -> str:
    """The torch device for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ValueError: For another name, or for a GPU that is not there.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"unknown device {name!r}; allowed: auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but torch sees no GPU; see `vla-rl doctor`")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def curriculum_named(name: str, tasks: Sequence[Task], seed: int) -> Curriculum:
    """A curriculum over some tasks."""
    made: Curriculum = plugins.load("curricula", name).Curriculum(tasks, seed)
    return made


def rewards_named(names: Sequence[str], settings: Any = None) -> dict[str, Reward]:
    """Rewards by name.

    Args:
        names: Plug-ins.
        settings: Each one's ``Reward`` with the settings that the user gave, as an attribute of the
            last part of its name; None takes the defaults.

    Raises:
        ValueError: As :func:`vla_rl.rewards.settings_types`, or if one says that it pays for
            something unheard of.
    """
    found: dict[str, Reward] = {}
    for name, (short, kind) in zip(names, settings_types(names).items(), strict=True):
        # A copy: what a reward learns belongs to one run.
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
    """A policy with fresh weights that depend on the seed only.

    Raises:
        ValueError: If a setting is bad.
    """
    plain = plain_settings(network, settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy: PolicyBase = plugins.load("policies", network).Policy(plain, spaces)
    return policy.to(pick_device(device))


class Met(NamedTuple):
    """What a policy with fresh weights met before training.

    Attributes:
        states: Statistics of the proprioception.
        env_steps: Environment steps that it took.
    """

    states: RunningMoments
    env_steps: int


def fit_state_statistics(collector: Collector, policy: PolicyBase, arena: Arena, seed: int) -> Met:
    """Let a policy with fresh weights play a little, and normalise proprioception by what it met.

    A policy that was cloned has this from its demonstrations.
    """
    policy.remember(arena.instructions)
    count = max(1, WARM_UP_EPISODES // len(arena.tasks))
    specs = arena.specs("train", count)
    keys = episode_keys(seed, "first states", count=len(specs))
    episodes = collector.collect(policy, specs, keys, PlaySettings()).trajectories
    met = RunningMoments()
    met.add(np.concatenate([t.obs.state for t in episodes]))
    policy.set_statistics(met.mean, met.std)
    return Met(met, sum(t.steps for t in episodes))


def open_collector(
    arena: Arena, config: RolloutConfig, policy: PolicyBase | None, ranks: Ranks = ALONE
) -> LocalCollector:
    """Workers for an arena; a suite that cannot render here says so before they start.

    Ranks on one machine share its cores, unless the number of workers (of each) is given.
    """
    arena.renderer()
    if ranks.size_here > 1 and not config.workers:
        config = replace(config, workers=max(1, cores() // ranks.size_here))
    device = "cpu" if policy is None else policy.state_mean.device.type
    return LocalCollector(arena.world.suite, arena.settings, config, device)
