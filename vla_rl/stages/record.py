"""Recording demonstrations with a suite's scripted experts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vla_rl.config import to_json
from vla_rl.demos.demo_set import DemoSet
from vla_rl.rollout.collector import Collector
from vla_rl.stages.progress import Progress
from vla_rl.types import EpisodeSpec, Task, seed_for
from vla_rl.world import Arena, write_world


def episodes_by_task(tasks: Sequence[Task], episodes: Sequence[int]) -> list[int]:
    """Number of demonstrations for each task.

    Raises:
        ValueError: If there is neither one number nor one for each task, or one is below 1.
    """
    if len(episodes) not in (1, len(tasks)):
        raise ValueError(
            f"episodes {list(episodes)}: give one number, or one for each of {len(tasks)} tasks"
        )
    if min(episodes) < 1:
        raise ValueError(f"episodes {list(episodes)}: every number must be at least 1")
    return list(episodes) * len(tasks) if len(episodes) == 1 else list(episodes)


def new_demos(folder: Path, arena: Arena, append: bool) -> DemoSet:
    """Make an empty set of demonstrations or, with ``append``, open an existing one that fits.

    Raises:
        FileExistsError: If it exists and ``append`` is off.
        ValueError: As :func:`fitting_demos`.
    """
    if folder.exists():
        if append:
            return fitting_demos(folder, arena)
        raise FileExistsError(f"{folder} already exists; add --append, or choose another --out")
    settings = to_json(arena.settings)
    demos = DemoSet.create(folder, arena.world.suite, settings, arena.spaces)
    write_world(arena, folder)
    return demos


def fitting_demos(folder: Path, arena: Arena) -> DemoSet:
    """Open a set of demonstrations that fits the arena.

    Raises:
        ValueError: If there is none, or its suite, cameras or actions differ.
    """
    demos = DemoSet.open(folder)
    demos.check(arena.spaces, arena.world.suite)
    return demos


def record_stage(
    collector: Collector, demos: DemoSet, arena: Arena, counts: Sequence[int], first: int
) -> None:
    """Record new starts, beginning with number ``first``, and append the solved episodes."""
    if arena.offered("expert", None) is None:
        raise ValueError(f"suite {arena.world.suite} has no scripted expert")
    known = {(spec.task.id, spec.seed) for spec in demos.specs()}
    specs = []
    for task, count in zip(arena.tasks, counts, strict=True):
        fresh = (i for i in range(first, 10**5) if (task.id, seed_for("demo", i)) not in known)
        specs += [EpisodeSpec(task, seed_for("demo", next(fresh))) for _ in range(count)]
    with Progress("record", len(specs)) as progress:
        found = collector.record(specs, lambda _, success: progress.advance())
    solved = [d for d in found if d.success]
    if not solved:
        raise ValueError(
            f"the experts solved none of {len(specs)} starts within {arena.world.max_steps} steps; "
            "raise --max-steps"
        )
    if len(solved) < len(found):
        print(f"the experts solved {len(solved)} of {len(found)} starts; only those are kept")
    demos.append(solved)
