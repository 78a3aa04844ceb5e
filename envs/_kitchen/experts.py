"""Scripted experts for Franka Kitchen: waypoints of the hand for each element.

A plan is a generator that yields one action per step and looks at the arm in between, so that it
reads as what the hand does. A plan that loses its handle raises :class:`_Missed` and begins again.

Importing this module imports MuJoCo, so choose a GL library first.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from vla_rl.envs._kitchen.arm import CLOSED, HAND_SPEED, OPEN, Arm, Doubles, turned
from vla_rl.sim import SimEnv
from vla_rl.types import Floats

if TYPE_CHECKING:
    from vla_rl.envs._kitchen.simulator import FrankaKitchen

Plan = Generator[Floats, None, None]

_X, _, _Z = np.eye(3)
# The fingers point ahead into the kitchen and open sideways.
_STRAIGHT = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
_HOME = np.array([0.148, -1.6, 1.844, -2.3, 0.26, 0.9, 1.595])
# These two leave the arm wound up; from there the next element is slow to reach.
_THEN_HOME = ("microwave", "kettle")
_BACK_OFF = (0.0, -0.06, 0.0)
# Over the back burner, and a little to the left of the middle, because the grip is.
_KETTLE_GOAL = np.array([-0.235, 0.74])

_ARRIVED, _ALIGNED = 0.012, 0.15
_SLIPPED = 0.06
_ATTEMPTS = 4
_MOVE_STEPS, _APPROACH_STEPS, _DRIVE_STEPS, _HOME_STEPS = 45, 20, 80, 25


class _Missed(Exception):
    """The hand did not get where it was going, or lost what it held."""


@dataclass(frozen=True)
class _Handle:
    """How to move one element by its handle.

    Lengths are in metres, angles in radians or, for the drawer-like cabinet, metres too. Offsets
    from the handle point to the right, ahead and up as the hand sees them.

    Attributes:
        site: The middle of the handle.
        joint: What the handle moves.
        goal: Where to move the joint.
        lead: How far ahead of the joint the hand aims.
        before: Offset from which the hand comes.
        at: Offset at which the hand works.
        grips: Whether to close the fingers; otherwise the handle stays loosely between them.
        yaw: Turn of the hand to the left; ``yaw_follows`` adds this share of the joint's way.
        pitch: Turn of the hand upwards.
        rolls: Whether the hand rolls as the joint turns.
        speed: How far the hand is asked to move in a step while it drives the joint.
        push: How hard it presses.
    """

    site: str
    joint: str
    goal: float
    lead: float
    before: tuple[float, float, float] = (0.0, -0.12, 0.0)
    at: tuple[float, float, float] = (0.0, -0.04, 0.0)
    grips: bool = True
    yaw: float = 0.0
    yaw_follows: float = 0.0
    pitch: float = 0.0
    rolls: bool = False
    speed: float = 0.05
    push: float = 1.0


_HANDLES = {
    "bottom-burner": _Handle(
        "knob2_site", "knob_Joint_2", goal=-0.95, lead=0.8, pitch=-0.2, rolls=True
    ),
    "top-burner": _Handle("knob4_site", "knob_Joint_4", goal=-0.95, lead=0.8, rolls=True),
    "light-switch": _Handle(
        "light_site",
        "light_switch",
        goal=-0.66,
        lead=0.6,
        at=(0.0, -0.03, 0.0),
        grips=False,
        push=3.0,
    ),
    "slide-cabinet": _Handle(
        "slide_site",
        "slide_cabinet",
        goal=0.40,
        lead=0.06,
        before=(0.0, -0.12, -0.08),
        at=(0.0, -0.025, -0.08),
        grips=False,
    ),
    "hinge-cabinet": _Handle(
        "hinge_site2",
        "right_hinge_cabinet",
        goal=1.42,
        lead=0.13,
        before=(0.0, -0.12, -0.08),
        at=(0.0, -0.012, -0.08),
        yaw_follows=0.6,
        speed=0.04,
    ),
    "microwave": _Handle(
        "microhandle_site",
        "microwave",
        goal=-0.74,
        lead=0.10,
        at=(0.0, -0.008, 0.0),
        yaw=0.3,
        speed=0.04,
    ),
}


class KitchenExpert:
    """Plays one task's elements in order; begins anew when an episode does."""

    def __init__(self, elements: tuple[str, ...]) -> None:
        self._elements = elements
        self._arm: Arm | None = None
        self._plan: Plan | None = None

    def __call__(self, env: SimEnv) -> Floats:
        """The action of the present step."""
        kitchen = cast("FrankaKitchen", env)
        if self._arm is None or self._plan is None or kitchen.steps == 0:
            self._arm = Arm(kitchen.model)
            self._plan = _all_of(self._elements, kitchen, self._arm)
        self._arm.look(kitchen.privileged)
        return next(self._plan)


def _all_of(elements: tuple[str, ...], kitchen: FrankaKitchen, arm: Arm) -> Plan:
    for index, element in enumerate(elements):
        # The arm may have done it in passing.
        if not kitchen.done >> index & 1:
            yield from _persistently(element, arm)
            if element in _THEN_HOME:
                yield from _home(arm)
    while True:
        yield arm.towards_joints(_HOME, OPEN)


def _persistently(element: str, arm: Arm) -> Plan:
    for _ in range(_ATTEMPTS):
        try:
            yield from _kettle(arm) if element == "kettle" else _handle(arm, _HANDLES[element])
            return
        except _Missed:
            continue


# ------------------------------------------------------------------------------------- the plans


def _handle(arm: Arm, how: _Handle) -> Plan:
    orientation = _facing(how.yaw, how.pitch)
    before, at = _rotated(how.yaw, how.before), _rotated(how.yaw, how.at)
    yield from _to_site(arm, how.site, before, orientation)
    yield from _to_site(arm, how.site, at, orientation, steps=_APPROACH_STEPS)
    if how.grips:
        yield from _hold(arm, arm.site(how.site) + at, orientation, CLOSED, steps=6)
    yield from _drive(arm, how)
    if how.grips:
        yield from _hold(arm, arm.position, arm.orientation, OPEN, steps=5)
    yield from _by(arm, _rotated(how.yaw + how.yaw_follows * how.goal, _BACK_OFF), OPEN)


def _drive(arm: Arm, how: _Handle) -> Plan:
    """Move the joint to its goal by moving the hand along the handle's way."""
    fingers, lead = CLOSED if how.grips else OPEN, np.copysign(how.lead, how.goal)
    for _ in range(_DRIVE_STEPS):
        now, handle = arm.angle(how.joint), arm.site(how.site)
        if abs(now) >= abs(how.goal):
            return
        yaw = how.yaw + how.yaw_follows * now
        at = _rotated(yaw, how.at)
        if np.linalg.norm(handle + at - arm.position) > _SLIPPED:
            raise _Missed
        roll = -(now + lead) if how.rolls else 0.0
        yield arm.towards(
            arm.carried(handle, how.joint, lead) + at,
            _facing(yaw, how.pitch, roll),
            fingers,
            how.speed,
            how.push,
        )
    raise _Missed


def _kettle(arm: Arm) -> Plan:
    """Lift the kettle by its bar and put it down further back."""
    across, grip = _facing(roll=-np.pi / 2), np.array([0.0, -0.025, 0.0])
    yield from _to_site(arm, "kettle_site", np.array([0.0, -0.13, 0.0]), across)
    yield from _to_site(arm, "kettle_site", grip, across, steps=_APPROACH_STEPS)
    yield from _hold(arm, arm.site("kettle_site") + grip, across, CLOSED, steps=6)
    yield from _by(arm, np.array([0.0, 0.0, 0.08]), CLOSED, speed=0.04)
    away = _KETTLE_GOAL - arm.data.body("kettle").xpos[:2]
    yield from _by(arm, np.append(away, 0.0), CLOSED)
    yield from _by(arm, np.array([0.0, 0.0, -0.075]), CLOSED, speed=0.04)
    yield from _hold(arm, arm.position, across, OPEN, steps=6)
    yield from _by(arm, np.array(_BACK_OFF), OPEN)


# ------------------------------------------------------------------------------- what they share


def _to_site(
    arm: Arm, site: str, offset: Doubles, orientation: Doubles, steps: int = _MOVE_STEPS
) -> Plan:
    """Move the open hand next to a site, wherever it is by then."""
    for _ in range(steps):
        place = arm.site(site) + offset
        apart, askew = arm.error(place, orientation)
        if apart < _ARRIVED and askew < _ALIGNED:
            return
        yield arm.towards(place, orientation, OPEN)
    if arm.error(arm.site(site) + offset, orientation)[0] > 2 * _ARRIVED:
        raise _Missed


def _by(arm: Arm, offset: Doubles, fingers: float, speed: float = HAND_SPEED) -> Plan:
    """Move the hand by an offset."""
    place, orientation = arm.position + offset, arm.orientation
    for _ in range(_MOVE_STEPS):
        apart, askew = arm.error(place, orientation)
        if apart < _ARRIVED and askew < _ALIGNED:
            return
        yield arm.towards(place, orientation, fingers, speed)
    if arm.error(place, orientation)[0] > 2 * _ARRIVED:
        raise _Missed


def _hold(arm: Arm, place: Doubles, orientation: Doubles, fingers: float, steps: int) -> Plan:
    """Stay while the fingers open or close."""
    for _ in range(steps):
        yield arm.towards(place, orientation, fingers)


def _home(arm: Arm) -> Plan:
    """Bring the arm's joints back to where they do not get caught."""
    for _ in range(_HOME_STEPS):
        yield arm.towards_joints(_HOME, OPEN)
        if np.abs(arm.data.qpos[:7] - _HOME).max() < 0.25:
            return


def _facing(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> Doubles:
    """The hand's orientation, turned to the left, upwards and about its own axis."""
    return np.asarray(turned(_Z, yaw) @ turned(_X, pitch) @ _STRAIGHT @ turned(_Z, roll))


def _rotated(yaw: float, offset: tuple[float, float, float]) -> Doubles:
    return np.asarray(turned(_Z, yaw) @ offset)
