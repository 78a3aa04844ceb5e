"""What an episode cost, as a number: attributes to select by (GFPO). Lower is better.

All are pure functions of a trajectory, without its images: of several processes only one has those.
Actions are the suite's own, in [-1, 1].
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np

from vla_rl import plugins
from vla_rl.types import Floats, Trajectory

Attribute = Callable[[Trajectory], float]


def decisions(trajectory: Trajectory) -> float:
    """Number of policy calls: what inference costs."""
    return float(trajectory.decisions)


def steps(trajectory: Trajectory) -> float:
    """Number of executed environment steps: how long the robot moved."""
    return float(trajectory.steps)


def path_length(trajectory: Trajectory) -> float:
    """Length of the way that proprioception's first three numbers went, seen at decisions.

    In Meta-World and most arms under Cartesian control these are the gripper's position in metres.
    """
    position = trajectory.obs.state[:, :3]
    return float(np.linalg.norm(np.diff(position, axis=0), axis=1).sum())


def action_energy(trajectory: Trajectory) -> float:
    """Sum of squared actions (torques are not known to every suite)."""
    return float(np.square(_executed(trajectory)).sum())


def jerk(trajectory: Trajectory) -> float:
    """Mean squared second difference of actions: the third of position under velocity control."""
    second = np.diff(_executed(trajectory), n=2, axis=0)
    return float(np.square(second).sum(1).mean()) if len(second) else 0.0


def gripper_toggles(trajectory: Trajectory) -> float:
    """How often the last action dimension, by convention the gripper, changed its sign."""
    return float((np.diff(np.sign(_executed(trajectory)[:, -1])) != 0).sum())


def surprise(trajectory: Trajectory) -> float:
    """Mean negative log-probability of the executed actions under the policy that acted, nats."""
    units = trajectory.chunk.logprob.shape[1] // trajectory.executed.shape[1]
    executed = np.repeat(trajectory.executed, units, axis=1)
    return float(-trajectory.chunk.logprob[executed].mean())


BUILT_IN: dict[str, Attribute] = {
    f.__name__: f
    for f in (decisions, steps, path_length, action_energy, jerk, gripper_toggles, surprise)
}


def named(name: str) -> Attribute:
    """An attribute by name, or a user's own by dotted path (`package.module.function`).

    Raises:
        ValueError: If there is none.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    module, _, function = name.rpartition(".")
    if not module:
        raise ValueError(
            plugins.unknown("attribute", name, BUILT_IN) + ", or package.module.function of yours"
        )
    try:
        found: Attribute = getattr(importlib.import_module(module), function)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"attribute {name!r} cannot be imported: {error}") from error
    return found


def _executed(trajectory: Trajectory) -> Floats:
    """``[L, A]`` actions that were carried out."""
    return trajectory.chunk.actions[trajectory.executed]
