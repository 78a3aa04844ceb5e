"""Import demonstrations of other projects as a demo set of one suite.

Before any episode is read, an :class:`ImportPlan` determines which keys are the views and the state
of the suite, which actions are -1 and 1, the task and instruction of each episode, and whether it
was solved. What the source does not specify must be given by the user; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vla_rl.config import to_json
from vla_rl.demos.demo_set import DemoSet
from vla_rl.demos.exchange.assignment import (
    specs_by_episode,
    tasks_by_episode,
    with_source_instruction,
)
from vla_rl.demos.exchange.source import Bounds, Source, SourceEpisode, found_keys
from vla_rl.storage.files import appearing
from vla_rl.types import Demonstration, EpisodeSpec, Floats, Observation, Spaces
from vla_rl.world import Arena, write_world

_BATCH_BYTES = 2**28  # episodes in memory before they are appended to the set
_ROUNDING = 1e-5  # actions outside [-1, 1] by less than this are at the bounds


@dataclass(frozen=True)
class ImportSettings:
    """How to interpret the demonstrations of another project."""

    views: tuple[str, ...] = ()
    """Image keys of the source, in the order of the suite's views; by default matched by name."""
    state: tuple[str, ...] = ()
    """State keys of the source, concatenated in this order; by default matched by size."""
    assign: dict[str, str] = field(default_factory=dict)
    """Pairs of an instruction (or task name) of the source and a task of the suite. Episodes with
    other instructions are left out. By default equal instructions or names are matched."""
    keep_instruction: bool = False
    """Keep the source's instruction instead of the suite's; only with a single task."""
    success: Literal["source", "all", "none"] = "source"
    """Episodes that count as solved: those that the `source` marks as such, `all`, or `none`."""
    action_low: tuple[float, ...] = ()
    """Action of the source that becomes -1: one number, or one for each dimension. By default the
    lower bound of its action space, or -1 where the format has no bounds."""
    action_high: tuple[float, ...] = ()
    """Action of the source that becomes 1: one number, or one for each dimension."""
    clip_actions: bool = False
    """Clip actions outside these bounds instead of rejecting them."""


@dataclass(frozen=True)
class ImportPlan:
    """How the episodes of a source will be read.

    Attributes:
        arena: Suite, settings, and the tasks that have episodes.
        views: Image keys of the V views.
        state: Keys that make up the state.
        specs: Start of each episode to read, by its index in the source.
        bounds: Actions that become -1 and 1.
    """

    arena: Arena
    views: tuple[str, ...]
    state: tuple[str, ...]
    specs: Mapping[int, EpisodeSpec]
    bounds: Bounds


def plan_import(source: Source, arena: Arena, settings: ImportSettings) -> ImportPlan:
    """Plan the import of a source into an arena.

    Raises:
        ValueError: If the source does not fit; says which option to add.
    """
    if not source.headers:
        raise ValueError(f"{source.name} has no episodes")
    suite, spaces = arena.world.suite, arena.spaces
    views = _views(source, suite, spaces, settings.views)
    state = _state(source, suite, spaces, settings.state)
    bounds = _bounds(source, suite, spaces, settings)
    if settings.success == "source" and not source.knows_success:
        raise ValueError(
            f"{source.name} does not say which episodes were solved; add --success all (or none)"
        )
    if settings.keep_instruction:
        arena = with_source_instruction(source, arena, settings.assign)
    specs = specs_by_episode(source.headers, tasks_by_episode(source, arena, settings.assign))
    used = {spec.task.id: spec.task for spec in specs.values()}
    own = {task.id: task.instruction for task in arena.suite.tasks()}
    chosen = [used[task.id] for task in arena.tasks if task.id in used]
    retold = len(chosen) == 1 and chosen[0].instruction != own[chosen[0].id]
    fitting = arena.replaced(
        tasks=tuple(task.id for task in chosen),
        max_steps=tuple(task.max_steps for task in chosen),
        instruction=chosen[0].instruction if retold else None,
    )
    return ImportPlan(fitting, views, state, specs, bounds)


def import_demos(
    source: Source,
    plan: ImportPlan,
    settings: ImportSettings,
    out: Path,
    on_episode: Callable[[], None] = lambda: None,
) -> DemoSet:
    """Read the planned episodes into a new set, which appears in its folder once it is complete.

    Raises:
        FileExistsError: If the folder holds anything.
        ValueError: If an episode cannot be read, or has actions outside the bounds or numbers that
            are not finite. Then nothing is written.
    """
    with appearing(out) as folder:
        arena = plan.arena
        suite_settings = to_json(arena.settings)
        demos = DemoSet.create(folder, arena.world.suite, suite_settings, arena.spaces)
        write_world(arena, folder)
        waiting: list[Demonstration] = []
        episodes = sorted(plan.specs)
        played = source.read(episodes, plan.views, plan.state, arena.spaces.image_size)
        for index, episode in zip(episodes, played, strict=True):
            waiting.append(_demonstration(source, index, episode, plan, settings))
            if sum(d.obs.images.nbytes + d.obs.state.nbytes for d in waiting) > _BATCH_BYTES:
                demos.append(waiting)
                waiting = []
            on_episode()
        demos.append(waiting)
    return DemoSet.open(out)


# -------------------------------------------------------------------------------------- which keys


def _views(source: Source, suite: str, spaces: Spaces, given: Sequence[str]) -> tuple[str, ...]:
    wanted = f"the views of suite {suite} are {', '.join(spaces.views) or 'none'}"
    for key in given:
        if key not in source.images:
            raise ValueError(f"there is no image {key!r}: {found_keys(source)}")
    if given:
        if len(given) != len(spaces.views):
            raise ValueError(f"--views names {len(given)} images, but {wanted}")
        return tuple(given)
    if len(source.images) == len(spaces.views) == 1:
        return tuple(source.images)
    named = [[key for key in source.images if _is_view(key, view)] for view in spaces.views]
    if all(len(keys) == 1 for keys in named):
        return tuple(keys[0] for keys in named)
    raise ValueError(
        f"{wanted}, and {found_keys(source)}: give the matching keys with --views, in "
        "the order of the suite's views"
    )


def _is_view(key: str, view: str) -> bool:
    return key == view or key.endswith((f"/{view}", f".{view.replace('/', '.')}"))


def _state(source: Source, suite: str, spaces: Spaces, given: Sequence[str]) -> tuple[str, ...]:
    wanted = f"the state of suite {suite} has {spaces.state_dim} numbers"
    for key in given:
        if key not in source.numbers:
            raise ValueError(f"there are no numbers {key!r}: {found_keys(source)}")
    if given:
        count = sum(source.numbers[key] for key in given)
        if count != spaces.state_dim:
            raise ValueError(
                f"--state {' '.join(given)} makes {count} numbers, but {wanted}; "
                f"{found_keys(source)}"
            )
        return tuple(given)
    if spaces.state_dim == 0:
        return ()
    fitting = [key for key, count in source.numbers.items() if count == spaces.state_dim]
    called_so = [key for key in fitting if _is_view(key, "state")]
    if len(called_so) == 1 or len(fitting) == 1:
        return tuple(called_so or fitting)
    if not fitting and sum(source.numbers.values()) == spaces.state_dim:
        return tuple(source.numbers)
    raise ValueError(
        f"{wanted}, and {found_keys(source)}: give the keys that make it up with --state, or "
        "choose settings of the suite that fit"
    )


# ----------------------------------------------------------------------------------------- actions


def _bounds(source: Source, suite: str, spaces: Spaces, settings: ImportSettings) -> Bounds:
    if source.action_size != spaces.action_dim:
        raise ValueError(
            f"an action of {source.name} has {source.action_size} numbers, one of the suite "
            f"{suite} has {spaces.action_dim}: the demonstrations are of another robot or "
            "controller"
        )
    if bool(settings.action_low) != bool(settings.action_high):
        raise ValueError("give both --action-low and --action-high, or neither")
    if not settings.action_low:
        bounds = source.action_bounds
        if bounds is None:
            bounds = Bounds(np.full(1, -1.0), np.full(1, 1.0))
    else:
        bounds = Bounds(np.array(settings.action_low), np.array(settings.action_high))
    for name, side in (("low", bounds.low), ("high", bounds.high)):
        if side.size not in (1, spaces.action_dim):
            raise ValueError(
                f"--action-{name} has {side.size} numbers; give one, or {spaces.action_dim}"
            )
    if not (np.isfinite(bounds.low) & np.isfinite(bounds.high)).all():
        raise ValueError(
            f"the action space of {source.name} has no bounds, so it cannot be scaled to [-1, 1]: "
            "give the actions that become -1 and 1 with --action-low and --action-high"
        )
    if not (bounds.low < bounds.high).all():
        raise ValueError(
            f"--action-low must lie below --action-high, got {bounds.low.tolist()} "
            f"and {bounds.high.tolist()}"
        )
    if source.action_range is not None:
        ends = np.stack([source.action_range.low.ravel(), source.action_range.high.ravel()])
        _scaled(ends, bounds, settings.clip_actions, source.name)
    return bounds


def _scaled(actions: NDArray[np.float64], bounds: Bounds, clip: bool, where: str) -> Floats:
    """Scale ``[L, A]`` actions to [-1, 1].

    Raises:
        ValueError: If one is not finite, or lies outside the bounds and must not be clipped.
    """
    middle, half = (bounds.high + bounds.low) / 2, (bounds.high - bounds.low) / 2
    scaled = (actions - middle) / half  # exact where the bounds are -1 and 1 already
    outside = np.abs(scaled) > 1 + _ROUNDING
    if not np.isfinite(scaled).all() or (outside.any() and not clip):
        low, high = actions.min(axis=0).tolist(), actions.max(axis=0).tolist()
        raise ValueError(
            f"{where}: actions range from {low} to {high}, outside {bounds.low.tolist()} to "
            f"{bounds.high.tolist()}. Give the actions that become -1 and 1 with --action-low and "
            "--action-high, or add --clip-actions"
        )
    return np.clip(scaled, -1, 1).astype(np.float32)


# ---------------------------------------------------------------------------------------- episodes


def _demonstration(
    source: Source, index: int, played: SourceEpisode, plan: ImportPlan, settings: ImportSettings
) -> Demonstration:
    where = f"episode {index} of {source.name}"
    if not np.isfinite(played.state).all():
        raise ValueError(f"{where}: the state holds numbers that are not finite")
    if settings.success == "source":
        if played.success is None:
            raise ValueError(f"{where} does not say whether it was solved; add --success all")
        success = played.success
    else:
        success = settings.success == "all"
    return Demonstration(
        spec=plan.specs[index],
        obs=Observation(played.images, played.state),
        actions=_scaled(played.actions, plan.bounds, settings.clip_actions, where),
        reward=played.reward,
        success=success,
        source=source.headers[index].source or f"imported:{source.name}",
    )
