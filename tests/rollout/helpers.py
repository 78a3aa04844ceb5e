"""Episodes of the stand-in suite, played in this process."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from vla_rl.envs import point_reach
from vla_rl.rollout.play import LocalSimulation, PlaySettings, play
from vla_rl.rollout.slots import SlotPool
from vla_rl.types import EpisodeSpec, Timing, Trajectory


def specs_of(module=point_reach, groups=3, size=4):
    starts = [EpisodeSpec(t, 100_000 + i) for i in range(groups) for t in module.tasks()]
    return [spec for spec in starts for _ in range(size)]


def play_here(policy, specs, keys, **settings) -> list[Trajectory]:
    simulation = LocalSimulation(SlotPool("point_reach", point_reach.Settings()))
    return play(policy, simulation, specs, keys, PlaySettings(**settings), Timing())


def assert_same(left: list[Trajectory], right: list[Trajectory]) -> None:
    """Equal but for the float rounding that the size of a batch causes."""
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.spec.seed == b.spec.seed
        assert a.success == b.success
        np.testing.assert_array_equal(a.executed, b.executed)
        for field in fields(a.chunk):
            np.testing.assert_allclose(
                getattr(a.chunk, field.name), getattr(b.chunk, field.name), atol=1e-4
            )
