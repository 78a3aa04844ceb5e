"""What is asked of played episodes before an update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vla_rl.types import Group, Observation, Trajectory

MOST_NOT_FINITE = 0.1  # largest share of the starts of a draw that may be dropped


def finite_groups(groups: Sequence[Group]) -> list[Group]:
    """The groups in which all numbers are finite.

    Raises:
        ValueError: If too many are not.
    """
    good: list[Group] = []
    bad: list[Group] = []
    for group in groups:
        (good if all(map(is_finite, group)) else bad).append(group)
    if len(bad) > max(1, MOST_NOT_FINITE * len(groups)):
        raise ValueError(
            f"{len(bad)} of {len(groups)} starts have episodes with rewards, proprioception or "
            f"log-probabilities that are not finite, for instance {bad[0][0].spec}: `vla-rl check` "
            "looks for them in the suite; a learning rate that is too large makes them, too"
        )
    return good


def is_finite(t: Trajectory) -> bool:
    """Whether all numbers that an update uses are finite."""
    numbers = (t.reward, t.obs.state, t.chunk.value)
    units = t.chunk.logprob.shape[1] // t.executed.shape[1]
    executed = np.repeat(t.executed, units, axis=1)
    return bool(
        all(np.isfinite(array).all() for array in numbers)
        and np.isfinite(t.chunk.logprob[executed]).all()
        and np.isfinite(t.final_value)
    )


def without_images(trajectory: Trajectory) -> Trajectory:
    """Drop what only rewards needed: with features, an update does not need images."""
    obs = trajectory.obs
    if trajectory.chunk.features.size:
        obs = Observation(obs.images[:, :0], obs.state)
    return replace(trajectory, obs=obs, final_obs=None)
