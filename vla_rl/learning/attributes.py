"""Attributes of an episode by which GFPO selects, such as its length. Lower is better.

All are pure functions of a trajectory without its images, which only one process has.
Actions are in [-1, 1].
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np

from vla_rl import plugins
from vla_rl.types import Floats, Trajectory

Attribute = Callable[[Trajectory], float]


def decisions(trajectory: Trajectory) -> float:
    """Number of policy calls (the cost of inference)."""
    return float(trajectory.decisions)


def steps(trajectory: Trajectory) -> float:
    """Number of executed environment steps."""
    return float(trajectory.steps)


def path_length(trajectory: Trajectory) -> float:
    """Path length of the first three numbers of proprioception, sampled at decisions.

    In Meta-World and most arms under Cartesian control these are the gripper's position in metres.
    """
    position = trajectory.obs.state[:, :3]
    return float(np.linalg.norm(np.diff(position, axis=0), axis=1).sum())


def action_energy(trajectory: Trajectory) -> float:
    """Sum of squared actions (not every suite knows torques)."""
    return float(np.square(_executed(trajectory)).sum())


def jerk(trajectory: Trajectory) -> float:
    """Mean squared second difference of actions; of velocities, that is the jerk of the motion."""
    second = np.diff(_executed(trajectory), n=2, axis=0)
    return float(np.square(second).sum(1).mean()) if len(second) else 0.0


def gripper_toggles(trajectory: Trajectory) -> float:
    """Number of sign changes of the last action dimension, by convention the gripper."""
    return float((np.diff(np.sign(_executed(trajectory)[:, -1])) != 0).sum())


def surprise(trajectory: Trajectory) -> float:
    """Mean negative log-probability of executed actions under the policy that acted, in nats."""
    units = trajectory.chunk.logprob.shape[1] // trajectory.executed.shape[1]
    executed = np.repeat(trajectory.executed, units, axis=1)
    return float(-trajectory.chunk.logprob[executed].mean())


BUILT_IN: dict[str, Attribute] = {
    f.__name__: f
    for f in (decisions, steps, path_length, action_energy, jerk, gripper_toggles, surprise)
}


def named(name: str) -> Attribute:
    """Look up an attribute by name, or a user's own by dotted path (`package.module.function`).

    Raises:
        ValueError: If there is no such attribute.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    module, _, function = name.rpartition(".")
    if not module:
        raise ValueError(
            plugins.unknown("attribute", name, BUILT_IN) + ", or a path package.module.function"
        )
    try:
        found: Attribute = getattr(importlib.import_module(module), function)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"attribute {name!r} cannot be imported: {error}") from error
    return found


def _executed(trajectory: Trajectory) -> Floats:
    """``[L, A]`` actions that were executed."""
    return trajectory.chunk.actions[trajectory.executed]
