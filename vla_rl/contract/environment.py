"""Checks of an environment's interface: spaces, actions, frames and speed.

Each check examines one :class:`Case` and returns what it found; it raises :class:`Broken` if the
contract is broken. ``vla_rl/contract/suite.py`` lists and runs them.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env as check_for_gymnasium

# It imports torch, which must come before a suite loads a GL library.
from stable_baselines3.common.env_checker import check_env as check_for_stable_baselines3

from vla_rl.contract.case import (
    NEARLY_FIXED,
    Case,
    difference,
    largest,
    look,
    numbers,
    play,
    random_actions,
)
from vla_rl.contract.finding import Broken, Finding
from vla_rl.sim import Outcome, SimEnv
from vla_rl.types import Observation, Spaces

SLOW_LOOK = 10.0
"""Observing is called slow if it takes more than this many times as long as advancing."""
DARK = 8
"""A view is called dark if its mean brightness, of 255, is less."""


def making(case: Case) -> Finding:
    """Two environments of the task can be made, and one can be started, moved and observed."""
    prepare = vars(case.suite).get("prepare")
    drawn_by = f"; images by {prepare(case.settings)}" if prepare else ""
    began = time.perf_counter()
    for env in case.pair:
        if not isinstance(env, SimEnv):
            raise Broken(f"make() gave a {type(env).__name__}", "derive it from vla_rl.sim.SimEnv")
    found = f"two environments in {time.perf_counter() - began:.2f} s{drawn_by}"
    case.env.start(case.seeds[0])
    outcome = case.env.advance(random_actions(case.env, 1, 0)[0])
    if not isinstance(outcome, Outcome):
        raise Broken(f"advance() gave a {type(outcome).__name__}", "return vla_rl.sim.Outcome")
    case.env.observe()
    return Finding(found)


def spaces(case: Case) -> Finding:
    """Actions and observations are as ``spaces(settings)`` declares."""
    env, declared = case.env, case.suite.spaces(case.settings)
    box = gymnasium.spaces.Box(-1.0, 1.0, (declared.action_dim,), np.float32)
    for name, is_now, wanted, advice in (
        ("spaces", env.spaces, declared, "set self.spaces = spaces(settings)"),
        ("action_space", env.action_space, box, "map [-1, 1] to your own units in advance()"),
        (
            "observation_space",
            env.observation_space,
            env.observation_space_for(declared),
            "set it to self.observation_space_for(self.spaces)",
        ),
    ):
        if is_now != wanted:
            raise Broken(f"{name} is {is_now} instead of {wanted}", advice)
    env.start(case.seeds[0])
    _check_look(env, "at the start", declared)
    env.advance(random_actions(env, 1, 0)[0])
    _check_look(env, "after a step", declared)
    views = f"{', '.join(declared.views)} of {declared.image_size} px" if declared.views else "none"
    state, action = declared.state_dim, declared.action_dim
    return Finding(f"views: {views}; {state} numbers of state, {action} of action")


def _check_look(env: SimEnv, when: str, declared: Spaces) -> None:
    seen, size = look(env), declared.image_size
    for name, array, shape, dtype in (
        ("images", seen.observation.images, (len(declared.views), size, size, 3), np.uint8),
        ("state", seen.observation.state, (declared.state_dim,), np.float32),
        ("privileged", seen.privileged, (seen.privileged.size,), np.float64),
    ):
        if array.shape != shape or array.dtype != dtype:
            raise Broken(
                f"{name} {when} is {array.dtype} {list(array.shape)}",
                f"give {np.dtype(dtype)} {list(shape)}, as spaces(settings) declares, or fix that",
            )
        if not np.isfinite(array).all():
            raise Broken(f"{name} {when} is {array}", "give finite numbers only")


def actions(case: Case) -> Finding:
    """Actions out of range are clipped; anything but A finite numbers is rejected."""
    env, seed = case.env, case.seeds[0]
    size = env.spaces.action_dim
    for name, bad in (("NaN", np.full(size, np.nan)), (f"{size + 1} numbers", np.zeros(size + 1))):
        env.start(seed)
        try:
            env.advance(bad.astype(np.float32))
        except ValueError:
            continue
        raise Broken(
            f"an action of {name} is accepted",
            f"raise ValueError unless an action is {size} finite numbers",
        )
    border = np.where(np.arange(size) % 2 == 0, 1.0, -1.0).astype(np.float32)
    played = []
    for action in (border, border, 7 * border):
        env.start(seed)
        played.append(play(env, action[None]))
    within, again, beyond = played
    if difference(within, again):
        return Finding(
            "clipping was not seen", "equal actions do not give equal steps: see seeding"
        )
    found = difference(within, beyond)
    if found:
        raise Broken(f"7 times the largest action is not clipped: {found}", "clip to [-1, 1] first")
    return Finding("clipped to [-1, 1]; NaN and a wrong number of them are refused")


# ---------------------------------------------------------------------------- frames and speed


def frames(case: Case) -> Finding:
    """Frames are not empty, and change with the start and with actions."""
    env, views = case.env, case.env.spaces.views
    if not views:
        return Finding("no views, state only")
    played = []
    for seed in case.seeds:
        env.start(seed)
        played.append(play(env, random_actions(env, 10, seed)))
    # [count, V, h, w, 3]
    first = np.stack([each.first.observation.images for each in played])
    last = np.stack([each.last.observation.images for each in played])
    empty = (first == first[:, :, :1, :1]).all(axis=(2, 3, 4))
    for index, view in enumerate(views):
        if empty[:, index].all():
            colour = first[0, index, 0, 0].tolist()
            raise Broken(
                f"view {view!r} shows nothing but the colour {colour} at {case.count} starts",
                "is there a light, does the camera look at the scene, was it drawn before looking?",
            )
    spread = largest(np.ptp([numbers(each.first) for each in played], axis=0))
    motion = max(largest(numbers(each.last) - numbers(each.first)) for each in played)
    if spread > NEARLY_FIXED * motion and (first == first[:1]).all():
        raise Broken(
            f"{case.count} different starts have the same frames",
            "update what is drawn in start(), and let a camera see what differs between seeds",
        )
    still = [view for i, view in enumerate(views) if (first[:, i] == last[:, i]).all()]
    if len(still) == len(views):
        raise Broken(
            "no pixel changes in ten steps",
            "draw the present state in observe(), and let a camera see what moves",
        )
    remarks = [f"acting does not change {view!r}" for view in still]
    remarks += [
        f"{view!r} is empty at {empty[:, i].sum()} of {case.count} starts"
        for i, view in enumerate(views)
        if empty[:, i].any()
    ]
    remarks += [f"{view!r} is dark" for i, view in enumerate(views) if first[:, i].mean() < DARK]
    changed = (first != last).any(axis=-1).mean()
    return Finding(
        f"mean brightness {first.mean():.0f} of 255, {changed:.1%} of pixels change in ten steps",
        "; ".join(remarks),
    )


def speed(case: Case) -> Finding:
    """Steps and observations per second, measured separately; a step must not observe."""
    env = case.env
    moves = random_actions(env, 200, 0)

    def advance(index: int) -> None:
        outcome = env.advance(moves[index])
        if outcome.terminated or outcome.truncated:
            env.start(case.seeds[0])

    env.start(case.seeds[0])
    if _looks_during(env, lambda: advance(0)):
        raise Broken("advance() calls observe()", "look only in observe(): rendering is expensive")
    step, glance = _seconds(advance), _seconds(lambda _: env.observe())
    found = f"{1 / step:.0f} steps and {1 / glance:.0f} looks per second"
    if glance <= SLOW_LOOK * step:
        return Finding(found)
    return Finding(
        found,
        f"looking takes as long as {glance / step:.0f} steps: use longer chunks, fewer or smaller "
        "views, or cheaper drawing",
    )


def _looks_during(env: SimEnv, action: Callable[[], object]) -> int:
    """Number of calls of ``observe`` during an action."""
    looks, observe = 0, env.observe

    def counting() -> Observation:
        nonlocal looks
        looks += 1
        return observe()

    vars(env)["observe"] = counting
    try:
        action()
    finally:
        del vars(env)["observe"]
    return looks


def _seconds(action: Callable[[int], object]) -> float:
    """Mean wall time of a call, over at most 200 calls and a tenth of a second."""
    began, done = time.perf_counter(), 0
    while done < 200 and time.perf_counter() - began < 0.1:
        action(done)
        done += 1
    return (time.perf_counter() - began) / done


# ------------------------------------------------------------------- checkers of other projects

# What they remark on every suite, because the contract wants it so.
_OUR_CHOICE = (
    "minimum value is -infinity",
    "maximum value is infinity",
    "unconventional shape",
    "environment not having a spec",
)


def gymnasium_checker(case: Case) -> Finding:
    """Gymnasium's own checker accepts the environment; without views nothing is rendered."""
    env = case.env
    return _asked(lambda: check_for_gymnasium(env, skip_render_check=not env.spaces.views))


def stable_baselines3_checker(case: Case) -> Finding:
    """Stable-Baselines3's checker accepts the environment."""
    env = case.env
    return _asked(lambda: check_for_stable_baselines3(env))


def _asked(checker: Callable[[], None]) -> Finding:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            checker()
        except AssertionError as error:
            raise Broken(" ".join(str(error).split()), "the checker's own words") from error
        except NotImplementedError as error:
            raise Broken("render() is missing", "return one view as [h, w, 3] uint8") from error
    said = [" ".join(str(warning.message).split()) for warning in caught]
    news = [text for text in said if not any(known in text for known in _OUR_CHOICE)]
    return Finding("accepts it", "; ".join(dict.fromkeys(news)))
