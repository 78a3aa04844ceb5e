"""Recording demonstrations by a suite's expert."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vla_rl import plugins
from vla_rl.config import to_json
from vla_rl.demos.demo_set import DemoSet
from vla_rl.rollout.collector import Collector
from vla_rl.stages.progress import Progress
from vla_rl.stages.setup import checked_spaces
from vla_rl.types import EpisodeSpec, seed_for
from vla_rl.world import World, write_world


def episodes_by_task(world: World, episodes: Sequence[int]) -> list[int]:
    """Demonstrations of each task of the world.

    Raises:
        ValueError: If there are neither one number nor one for each task, or one is below 1.
    """
    tasks = world.resolved()
    if len(episodes) not in (1, len(tasks)):
        raise ValueError(
            f"episodes {list(episodes)}: give one number, or one for each of {len(tasks)} tasks"
        )
    if min(episodes) < 1:
        raise ValueError(f"episodes {list(episodes)}: every number must be at least 1")
    return list(episodes) * len(tasks) if len(episodes) == 1 else list(episodes)


def new_demos(folder: Path, world: World, append: bool) -> DemoSet:
    """An empty set of demonstrations, or with ``append`` also one that is there and fits.

    Raises:
        FileExistsError: If it is there and ``append`` is off.
        ValueError: As :func:`fitting_demos`.
    """
    if folder.exists():
        if append:
            return fitting_demos(folder, world)
        raise FileExistsError(f"{folder} already exists; add --append, or choose another --out")
    spaces = checked_spaces(world)
    demos = DemoSet.create(folder, world.suite, to_json(world.settings()), spaces)
    write_world(world, folder)
    return demos


def fitting_demos(folder: Path, world: World) -> DemoSet:
    """A set of demonstrations that fits the world.

    Raises:
        ValueError: If there is none, or it was recorded in another suite, or with other cameras or
            actions.
    """
    demos = DemoSet.open(folder)
    demos.check(checked_spaces(world), world.suite)
    return demos


def record_stage(
    collector: Collector, demos: DemoSet, world: World, counts: Sequence[int], first: int
) -> None:
    """Record starts from the ``first``-th on that are new, and append the solved episodes."""
    suite = plugins.load("envs", world.suite)
    if "expert" not in vars(suite):
        raise ValueError(f"suite {world.suite} has no scripted expert")
    known = {(spec.task.id, spec.seed) for spec in demos.specs()}
    specs = []
    for task, count in zip(world.resolved(), counts, strict=True):
        fresh = (i for i in range(first, 10**5) if (task.id, seed_for("demo", i)) not in known)
        specs += [EpisodeSpec(task, seed_for("demo", next(fresh))) for _ in range(count)]
    with Progress("record", len(specs)) as progress:
        found = collector.record(specs, lambda _, success: progress.advance())
    solved = [d for d in found if d.success]
    if not solved:
        raise ValueError(
            f"the experts solved none of {len(specs)} starts within {world.max_steps} steps; "
            "raise --max-steps"
        )
    if len(solved) < len(found):
        print(f"the experts solved {len(solved)} of {len(found)} starts; only those are kept")
    demos.append(solved)
