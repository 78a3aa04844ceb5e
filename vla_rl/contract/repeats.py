"""Checks of reproducibility: seeds, snapshots and the time limit.

Each check examines one :class:`Case` and returns what it found; it raises :class:`Broken` if the
contract is broken. ``vla_rl/contract/suite.py`` lists and runs them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vla_rl.contract.case import (
    NEARLY_FIXED,
    Case,
    Look,
    Played,
    difference,
    largest,
    look,
    numbers,
    play,
    random_actions,
    unseen,
)
from vla_rl.contract.finding import Broken, Finding
from vla_rl.sim import SimEnv

BEFORE, AFTER = 4, 8
"""Environment steps before a snapshot, and those that are compared after it."""
SHORT_HORIZON = 5
"""Horizon in environment steps at which the time limit is checked."""
FEW_PIXELS = 0.001
"""Nearly fixed starts differ in less than this share of their pixels."""


def seeding(case: Case) -> Finding:
    """The same seed and actions give the same episode, in any environment and at any time."""
    one, two = case.pair
    seed, actions = case.seeds[0], random_actions(one, 10, 0)
    one.start(seed)
    first, remark = play(one, actions), ""
    for env, where in ((two, "in another environment"), (one, "after another episode")):
        # What an earlier episode leaves behind must not matter.
        env.start(case.other_seed)
        play(env, random_actions(env, 7, 1))
        env.start(seed)
        again = play(env, actions)
        found = difference(first, again)
        if found:
            raise Broken(
                f"seed {seed} played again {where}: {found}",
                "start(seed) must set everything anew and draw all that is random from the seed, "
                "what is drawn later in the episode too",
            )
        remark = remark or _not_exact(first, again)
    return Finding(f"{len(first.outcomes)} steps repeat, in two environments", remark)


def _not_exact(a: Played, b: Played) -> str:
    """A remark on episodes that differ only in their last digits; empty if they are equal."""
    found = difference(a, b, tolerance=0.0)
    return found and f"not to the last digit, so a resumed run may differ from a whole one: {found}"


def starts(case: Case) -> Finding:
    """Different seeds give different starts."""
    env = case.env
    looks = []
    for seed in case.seeds:
        env.start(seed)
        looks.append(look(env))
    moved = play(env, random_actions(env, 10, 0))
    images = np.stack([each.observation.images for each in looks])
    distinct = len({(numbers(each).tobytes(), each.observation.images.tobytes()) for each in looks})
    spread = largest(np.ptp([numbers(each) for each in looks], axis=0))
    motion = largest(numbers(moved.last) - numbers(moved.first))
    found = f"{distinct} of {case.count} differ; numbers by up to {spread:.3g}"
    pixels = float((images != images[:1]).any(axis=-1).mean()) if images.size else 0.0
    found += f", {pixels:.1%} of pixels" if images.size else ""
    if distinct == 1 and case.count > 1:
        raise Broken(found, "draw the initial state from the seed that start() is given")
    if distinct < case.count:
        return Finding(found, "several seeds share a start: an evaluation counts them as different")
    if case.count > 1 and spread < NEARLY_FIXED * motion and pixels < FEW_PIXELS:
        return Finding(found, f"nearly fixed: ten actions change numbers by up to {motion:.3g}")
    return Finding(found)


def snapshots(case: Case) -> Finding:
    """A snapshot from the middle of an episode repeats it, twice and in another environment."""
    if not case.env.restorable:
        return Finding(
            "restorable is False",
            "every episode in flight has a simulator of its own, which takes memory and time; if "
            "yours can be copied, define snapshot() and restore()",
        )
    horizon = min(BEFORE + AFTER, case.task.max_steps)
    before = min(BEFORE, horizon - 1)
    # One start is not enough: what was forgotten may not have mattered there.
    remarks = [_snapshot(case, seed, before, look) for seed in case.seeds]
    # The clock is part of the state, so it has to run out while it is compared.
    short = case.with_horizon(horizon)
    try:
        for seed in case.seeds:
            _snapshot(short, seed, before, unseen)
    finally:
        short.close()
    seen = [remark for remark in remarks if remark is not None]
    if not seen:
        return Finding("not seen", f"all {case.count} starts end by themselves in {before} steps")
    return Finding(
        f"{len(seen)} repeat after {before} steps: twice, and in another environment",
        next(filter(None, seen), ""),
    )


def _snapshot(case: Case, seed: int, before: int, looking: Callable[[SimEnv], Look]) -> str | None:
    """A remark on a correct snapshot; None if the episode ends before it can be taken."""
    one, two = case.pair
    one.start(seed)
    past = play(one, random_actions(one, before, 0), looking).outcomes
    if past and past[-1].terminated:
        return None
    saved = one.snapshot()
    future = random_actions(one, AFTER, 1)
    first, remark = play(one, future, looking), ""
    two.start(case.other_seed)
    for env, where in ((one, "once"), (one, "twice"), (two, "in another environment")):
        try:
            env.restore(saved)
            again = play(env, future, looking)
            found = difference(first, again)
            remark = remark or _not_exact(first, again)
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        if found:
            raise Broken(
                f"taken after {before} steps of seed {seed} and restored {where}: {found}",
                "a snapshot must hold copies of all that determines the future: physics, the count "
                "of steps, random generators, and what start() remembers for later",
            )
    return remark


def clock(case: Case) -> Finding:
    """The time limit truncates the last step of the horizon and has no other effect."""
    horizon = max(1, min(SHORT_HORIZON, case.task.max_steps - 1))
    short = case.with_horizon(horizon)
    try:
        actions = np.zeros((horizon, short.env.spaces.action_dim), np.float32)
        for seed in case.seeds:
            short.env.start(seed)
            case.env.start(seed)
            cut, whole = play(short.env, actions, unseen), play(case.env, actions, unseen)
            if not whole.outcomes[-1].terminated:
                return _clock(cut, horizon)
    finally:
        short.close()
    return Finding("not seen", f"all {case.count} starts end by themselves within {horizon} steps")


def _clock(cut: Played, horizon: int) -> Finding:
    """Check an episode that would continue beyond the horizon without a time limit."""
    last, steps = cut.outcomes[-1], len(cut.outcomes)
    if last.terminated:
        raise Broken(
            f"with a horizon of {horizon} steps, terminated is set at step {steps}",
            "the clock sets truncated and only the task sets terminated: a critic must know "
            "whether the episode would have gone on",
        )
    if not last.truncated or steps < horizon:
        when = f"set at step {steps}" if last.truncated else "never set"
        raise Broken(
            f"with a horizon of {horizon} steps, truncated is {when}",
            "count the steps since start(), and set truncated when they reach the max_steps of the "
            "task that make() was given",
        )
    return Finding(f"a horizon of {horizon} steps sets truncated at step {horizon}, nothing else")
