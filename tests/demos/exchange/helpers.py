"""A suite of two views and two tasks, demonstrations of it, and datasets of other people."""

from __future__ import annotations

from typing import Any

import gymnasium
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer

from tests.demos.helpers import assert_equal
from vla_rl.demos.demo_set import DemoSet
from vla_rl.types import Demonstration, EpisodeSpec, Observation, Spaces, Task
from vla_rl.world import World

TOYS = """
from dataclasses import dataclass
from vla_rl.types import Spaces, Task

@dataclass(frozen=True)
class Settings:
    image_size: int = 16

def tasks():
    return (Task("toys", "push", "push the puck", 30), Task("toys", "pull", "pull the lever", 30))

def spaces(settings):
    return Spaces(("front", "hand"), settings.image_size, 3, 2)

def make(task, settings):
    raise NotImplementedError
"""
SPACES = Spaces(("front", "hand"), 16, 3, 2)
WORLD = World("toys", ("all",), None)
Box = gymnasium.spaces.Box


def demo(task: Task, seed: int, length: int, success: bool = True) -> Demonstration:
    rng = np.random.default_rng(seed)
    return Demonstration(
        EpisodeSpec(task, seed),
        Observation(
            rng.integers(0, 256, (length, 2, 16, 16, 3), dtype=np.uint8),
            rng.standard_normal((length, 3), dtype=np.float32),
        ),
        rng.uniform(-1, 1, (length, 2)).astype(np.float32),
        rng.standard_normal(length, dtype=np.float32),
        success,
        "expert" if success else "policy",
    )


PUSH = Task("toys", "push", "push the puck", 25)
PULL = Task("toys", "pull", "pull the lever", 25)
MADE = [demo(PUSH, 99_999, 4), demo(PULL, 0, 1, success=False), demo(PUSH, 7, 6)]


def same(found: DemoSet, expected: list[Demonstration] = MADE) -> None:
    for left, right in zip(expected, found.load(), strict=True):
        assert_equal(left, right)


def foreign(
    observations: dict[str, Any],
    space: gymnasium.Space,
    actions: list[list[float]],
    bounds: tuple[Any, Any] = (-1, 1),
    infos: dict[str, Any] | None = None,
    dataset_id: str = "lab/arm-v0",
) -> minari.MinariDataset:
    """A dataset of one episode that Minari itself writes, into its own folder."""
    length = len(actions)
    last = [t == length - 1 for t in range(length)]
    low, high = (np.broadcast_to(np.array(b, np.float32), (2,)) for b in bounds)
    episode = EpisodeBuffer(
        observations=observations,
        actions=np.array(actions, np.float32),  # type: ignore[arg-type]
        rewards=[float(t) for t in range(length)],
        terminations=last,
        truncations=[False] * length,
        infos=infos or {},
    )
    return minari.create_dataset_from_buffers(
        dataset_id,
        [episode],
        observation_space=space,
        action_space=Box(low, high, dtype=np.float32),
        author="us",
        author_email="us@example.org",
        code_permalink="none",
        algorithm_name="none",
        description="none",
        jpeg_encoding=False,
    )


def cameras() -> tuple[dict[str, Any], gymnasium.spaces.Dict]:
    """Three observations: an HWC camera, a CHW camera of other sides, numbers, and a mode."""
    front = np.zeros((3, 32, 32, 3), np.uint8)
    front[0, :2, :2, 0] = [[0, 100], [200, 100]]  # one pixel at half the size: 100
    hand = np.full((3, 3, 32, 48), 7, np.uint8)
    seen = {
        "cams": {"front": front, "hand": hand},
        "arm": np.arange(6, dtype=np.float64).reshape(3, 2),
        "grip": np.array([[0.5], [0.25], [0.0]]),
    }
    space = gymnasium.spaces.Dict(
        {
            "cams": gymnasium.spaces.Dict(
                front=Box(0, 255, (32, 32, 3), np.uint8), hand=Box(0, 255, (3, 32, 48), np.uint8)
            ),
            "arm": Box(-9, 9, (2,), np.float64),
            "grip": Box(0, 1, (1,), np.float64),
        }
    )
    return seen, space
