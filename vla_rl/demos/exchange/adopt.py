"""Foreign demonstrations as a set of ours, for one suite.

What a policy of the suite needs is settled before an episode is read: which keys are its views and
its state, which actions are -1 and 1, which task an episode is of and with which sentence, and
whether it was solved. What cannot be known is asked for, not guessed.
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
from vla_rl.demos.exchange.assignment import assigned, starts, told_as_source
from vla_rl.demos.exchange.source import Bounds, Played, Source, found_keys
from vla_rl.storage.files import appearing
from vla_rl.types import Demonstration, EpisodeSpec, Floats, Observation, Spaces
from vla_rl.world import Arena, write_world

_BATCH_BYTES = 2**28  # what is held in memory before it is appended to the set
_ROUNDING = 1e-5  # actions this far outside [-1, 1] are the bounds themselves


@dataclass(frozen=True)
class Reading:
    """How foreign demonstrations are understood."""

    views: tuple[str, ...] = ()
    """Keys of the images, in the order of the suite's views; found by name if not given."""
    state: tuple[str, ...] = ()
    """Keys of the state, joined in this order; found by their size if not given."""
    assign: dict[str, str] = field(default_factory=dict)
    """Which sentence (or task name) of the source is which task of the suite, as pairs; episodes of
    other sentences are left out. By default those of equal words are matched."""
    keep_sentence: bool = False
    """Tell the policy the source's sentence instead of the suite's, where one task is chosen."""
    success: Literal["told", "all", "none"] = "told"
    """Which episodes count as solved: as the source tells, all, or none."""
    action_low: tuple[float, ...] = ()
    """The source's action that is -1 to a policy: one number for all, or one for each dimension; by
    default the lower bound of its action space, or -1 where the format knows no bounds."""
    action_high: tuple[float, ...] = ()
    """The action that is 1."""
    clip_actions: bool = False
    """Clip actions that lie outside of these instead of refusing them."""


@dataclass(frozen=True)
class Plan:
    """Everything that is settled before reading.

    Attributes:
        arena: Of the set: suite, settings, and the tasks that have episodes.
        views: V keys.
        state: Keys whose numbers are the state.
        specs: Start of each episode to read, by its index in the source.
        bounds: Which actions are -1 and 1.
    """

    arena: Arena
    views: tuple[str, ...]
    state: tuple[str, ...]
    specs: Mapping[int, EpisodeSpec]
    bounds: Bounds


def plan(source: Source, arena: Arena, reading: Reading) -> Plan:
    """Settle how a source becomes demonstrations of an arena.

    Raises:
        ValueError: If the source does not fit; says what to add.
    """
    if not source.headers:
        raise ValueError(f"{source.name} has no episodes")
    suite, spaces = arena.world.suite, arena.spaces
    views = _views(source, suite, spaces, reading.views)
    state = _state(source, suite, spaces, reading.state)
    bounds = _bounds(source, suite, spaces, reading)
    if reading.success == "told" and not source.tells_success:
        raise ValueError(
            f"{source.name} does not tell which episodes were solved; add --success all (or none)"
        )
    if reading.keep_sentence:
        arena = told_as_source(source, arena, reading.assign)
    specs = starts(source.headers, assigned(source, arena, reading.assign))
    used = {spec.task.id: spec.task for spec in specs.values()}
    own = {task.id: task.instruction for task in arena.suite.tasks()}
    chosen = [used[task.id] for task in arena.tasks if task.id in used]
    retold = len(chosen) == 1 and chosen[0].instruction != own[chosen[0].id]
    fitting = arena.replaced(
        tasks=tuple(task.id for task in chosen),
        max_steps=tuple(task.max_steps for task in chosen),
        instruction=chosen[0].instruction if retold else None,
    )
    return Plan(fitting, views, state, specs, bounds)


def adopt(
    source: Source,
    plan: Plan,
    reading: Reading,
    out: Path,
    on_episode: Callable[[], None] = lambda: None,
) -> DemoSet:
    """Read the planned episodes into a new set; it appears in the folder when it is whole.

    Raises:
        FileExistsError: If the folder holds anything.
        ValueError: If an episode cannot be read, or has actions outside the bounds or numbers that
            are not finite. The folder is left as it was.
    """
    with appearing(out) as folder:
        arena = plan.arena
        settings = to_json(arena.settings)
        demos = DemoSet.create(folder, arena.world.suite, settings, arena.spaces)
        write_world(arena, folder)
        waiting: list[Demonstration] = []
        episodes = sorted(plan.specs)
        played = source.read(episodes, plan.views, plan.state, arena.spaces.image_size)
        for index, episode in zip(episodes, played, strict=True):
            waiting.append(_demonstration(source, index, episode, plan, reading))
            if sum(d.obs.images.nbytes + d.obs.state.nbytes for d in waiting) > _BATCH_BYTES:
                demos.append(waiting)
                waiting = []
            on_episode()
        demos.append(waiting)
    return DemoSet.open(out)


# -------------------------------------------------------------------------------------- which keys


def _views(source: Source, suite: str, spaces: Spaces, given: Sequence[str]) -> tuple[str, ...]:
    wanted = f"the suite {suite} has the views {', '.join(spaces.views) or 'none'}"
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
        f"{wanted}, and {found_keys(source)}: say which they are with --views, in the order of the "
        "suite's"
    )


def _is_view(key: str, view: str) -> bool:
    return key == view or key.endswith((f"/{view}", f".{view.replace('/', '.')}"))


def _state(source: Source, suite: str, spaces: Spaces, given: Sequence[str]) -> tuple[str, ...]:
    wanted = f"the state of the suite {suite} has {spaces.state_dim} numbers"
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
        f"{wanted}, and {found_keys(source)}: say with --state which of them make it, or choose "
        "settings of the suite that fit"
    )


# ----------------------------------------------------------------------------------------- actions


def _bounds(source: Source, suite: str, spaces: Spaces, reading: Reading) -> Bounds:
    if source.action_size != spaces.action_dim:
        raise ValueError(
            f"an action of {source.name} has {source.action_size} numbers, one of the suite "
            f"{suite} has {spaces.action_dim}: the demonstrations are of another robot or "
            "controller"
        )
    if bool(reading.action_low) != bool(reading.action_high):
        raise ValueError("give both --action-low and --action-high, or neither")
    if not reading.action_low:
        bounds = source.action_bounds
        if bounds is None:
            bounds = Bounds(np.full(1, -1.0), np.full(1, 1.0))
    else:
        bounds = Bounds(np.array(reading.action_low), np.array(reading.action_high))
    for name, side in (("low", bounds.low), ("high", bounds.high)):
        if side.size not in (1, spaces.action_dim):
            raise ValueError(
                f"--action-{name} has {side.size} numbers; give one, or {spaces.action_dim}"
            )
    if not (np.isfinite(bounds.low) & np.isfinite(bounds.high)).all():
        raise ValueError(
            f"the action space of {source.name} has no bounds, so that it cannot be scaled to "
            "[-1, 1]: say with --action-low and --action-high which actions are -1 and 1"
        )
    if not (bounds.low < bounds.high).all():
        raise ValueError(
            f"the action that is -1 must lie below the one that is 1, got {bounds.low.tolist()} "
            f"and {bounds.high.tolist()}"
        )
    if source.action_range is not None:
        ends = np.stack([source.action_range.low.ravel(), source.action_range.high.ravel()])
        _scaled(ends, bounds, reading.clip_actions, source.name)
    return bounds


def _scaled(actions: NDArray[np.float64], bounds: Bounds, clip: bool, where: str) -> Floats:
    """``[L, A]`` actions as a policy's.

    Raises:
        ValueError: If one is not finite, or lies outside the bounds and may not be clipped.
    """
    middle, half = (bounds.high + bounds.low) / 2, (bounds.high - bounds.low) / 2
    scaled = (actions - middle) / half  # exact where the bounds are -1 and 1 already
    outside = np.abs(scaled) > 1 + _ROUNDING
    if not np.isfinite(scaled).all() or (outside.any() and not clip):
        low, high = actions.min(axis=0).tolist(), actions.max(axis=0).tolist()
        raise ValueError(
            f"{where}: actions reach from {low} to {high}, outside of {bounds.low.tolist()} to "
            f"{bounds.high.tolist()}. Say with --action-low and --action-high which actions are -1 "
            "and 1, or add --clip-actions"
        )
    return np.clip(scaled, -1, 1).astype(np.float32)


# ---------------------------------------------------------------------------------------- episodes


def _demonstration(
    source: Source, index: int, played: Played, plan: Plan, reading: Reading
) -> Demonstration:
    where = f"episode {index} of {source.name}"
    if not np.isfinite(played.state).all():
        raise ValueError(f"{where}: the state holds numbers that are not finite")
    if reading.success == "told":
        if played.success is None:
            raise ValueError(f"{where} does not tell whether it was solved; add --success all")
        success = played.success
    else:
        success = reading.success == "all"
    return Demonstration(
        spec=plan.specs[index],
        obs=Observation(played.images, played.state),
        actions=_scaled(played.actions, plan.bounds, reading.clip_actions, where),
        reward=played.reward,
        success=success,
        source=source.headers[index].source or f"imported:{source.name}",
    )
