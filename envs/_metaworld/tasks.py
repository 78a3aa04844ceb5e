"""The fifty Meta-World tasks: their instructions, difficulty and success.

Then variants of ten of them, and lists of tasks by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_rl.envs._mujoco.variants import ALONG_X, ALONG_Y, Part, Variant

INSTRUCTIONS: dict[str, str] = {
    "assembly-v3": "put the ring of the wrench over the peg",
    "basketball-v3": "drop the basketball through the hoop",
    "bin-picking-v3": "move the block from the red bin into the blue bin",
    "box-close-v3": "put the lid on the box",
    "button-press-topdown-v3": "press the button down from above",
    "button-press-topdown-wall-v3": "reach over the wall and press the button down from above",
    "button-press-v3": "push the button in from the front",
    "button-press-wall-v3": "reach around the wall and push the button in",
    "coffee-button-v3": "press the button of the coffee machine",
    "coffee-pull-v3": "pull the mug away from the coffee machine",
    "coffee-push-v3": "push the mug under the coffee machine",
    "dial-turn-v3": "turn the dial",
    "disassemble-v3": "lift the wrench off the peg",
    "door-close-v3": "push the door shut",
    "door-lock-v3": "turn the latch of the door to lock it",
    "door-open-v3": "pull the door open",
    "door-unlock-v3": "turn the latch of the door to unlock it",
    "drawer-close-v3": "push the drawer shut",
    "drawer-open-v3": "pull the drawer open",
    "faucet-close-v3": "turn the faucet clockwise",
    "faucet-open-v3": "turn the faucet counter-clockwise",
    "hammer-v3": "hit the nail with the hammer",
    "hand-insert-v3": "carry the block down into the hole",
    "handle-press-side-v3": "press the handle down from the side",
    "handle-press-v3": "press the handle down",
    "handle-pull-side-v3": "pull the handle up from the side",
    "handle-pull-v3": "pull the handle up",
    "lever-pull-v3": "push the lever up until it is upright",
    "peg-insert-side-v3": "insert the peg into the hole in the side of the box",
    "peg-unplug-side-v3": "pull the plug out of the socket",
    "pick-out-of-hole-v3": "bring the puck from the hole up to the goal",
    "pick-place-v3": "pick up the puck and hold it at the goal",
    "pick-place-wall-v3": "lift the puck over the wall and hold it at the goal",
    "plate-slide-back-side-v3": "slide the plate sideways out of the goal cage",
    "plate-slide-back-v3": "slide the plate back out of the goal cage",
    "plate-slide-side-v3": "slide the plate sideways into the goal cage",
    "plate-slide-v3": "slide the plate forward into the goal cage",
    "push-back-v3": "pull the block back to the goal",
    "push-v3": "push the puck to the goal",
    "push-wall-v3": "push the puck around the wall to the goal",
    "reach-v3": "move the gripper to the goal",
    "reach-wall-v3": "move the gripper past the wall to the goal",
    "shelf-place-v3": "put the block on the shelf",
    "soccer-v3": "push the ball into the soccer goal",
    "stick-pull-v3": "hook the thermos with the stick and pull it to the goal",
    "stick-push-v3": "push the thermos to the goal with the stick",
    "sweep-into-v3": "sweep the block into the hole in the table",
    "sweep-v3": "sweep the block off the edge of the table",
    "window-close-v3": "slide the window shut",
    "window-open-v3": "slide the window open",
}

# The split of Seo et al., "Masked World Models for Visual Control" (2022), which work on
# vision-language-action policies reports by.
BUCKETS: dict[str, tuple[str, ...]] = {
    "easy": (
        "button-press-v3",
        "button-press-topdown-v3",
        "button-press-topdown-wall-v3",
        "button-press-wall-v3",
        "coffee-button-v3",
        "dial-turn-v3",
        "door-close-v3",
        "door-lock-v3",
        "door-open-v3",
        "door-unlock-v3",
        "drawer-close-v3",
        "drawer-open-v3",
        "faucet-close-v3",
        "faucet-open-v3",
        "handle-press-v3",
        "handle-press-side-v3",
        "handle-pull-v3",
        "handle-pull-side-v3",
        "lever-pull-v3",
        "peg-unplug-side-v3",
        "plate-slide-v3",
        "plate-slide-back-v3",
        "plate-slide-back-side-v3",
        "plate-slide-side-v3",
        "reach-v3",
        "reach-wall-v3",
        "window-close-v3",
        "window-open-v3",
    ),
    "medium": (
        "basketball-v3",
        "bin-picking-v3",
        "box-close-v3",
        "coffee-pull-v3",
        "coffee-push-v3",
        "hammer-v3",
        "peg-insert-side-v3",
        "push-wall-v3",
        "soccer-v3",
        "sweep-v3",
        "sweep-into-v3",
    ),
    "hard": (
        "assembly-v3",
        "hand-insert-v3",
        "pick-out-of-hole-v3",
        "pick-place-v3",
        "push-v3",
        "push-back-v3",
    ),
    "very_hard": (
        "shelf-place-v3",
        "disassemble-v3",
        "stick-pull-v3",
        "stick-push-v3",
        "pick-place-wall-v3",
    ),
}

# ------------------------------------------------------------------------ how far from success

Observed = NDArray[np.float64]

_HAMMER_HEAD = np.array([0.16, 0.06, 0.0])
"""From the handle to the head of the hammer, as Meta-World's reward has it."""


def _nut_to_peg(sawyer: Any, observed: Observed) -> float:
    return _length(sawyer._get_site_pos("RoundNut") - sawyer._target_pos)


def _lid_to_box(sawyer: Any, observed: Observed) -> float:
    return _length(observed[4:7] - sawyer._target_pos)


def _height_to_lift(sawyer: Any, observed: Observed) -> float:
    return max(0.0, float(sawyer._target_pos[2] - observed[6]))


def _door_to_open(sawyer: Any, observed: Observed) -> float:
    return abs(float(observed[4] - sawyer._target_pos[0]))


def _hammer_to_nail(sawyer: Any, observed: Observed) -> float:
    return _length(observed[4:7] + _HAMMER_HEAD - sawyer._target_pos)


def _angle_to_upright(sawyer: Any, observed: Observed) -> float:
    return abs(float(-sawyer.data.joint("LeverAxis").qpos[0]) - math.pi / 2)


def _length(vector: NDArray[np.float64]) -> float:
    return math.sqrt(float(vector.dot(vector)))


# Tasks whose info has no useful "obj_to_target": 0, or a distance of the hand alone.
REMAINING: dict[str, Callable[[Any, Observed], float]] = {
    "assembly-v3": _nut_to_peg,
    "box-close-v3": _lid_to_box,
    "disassemble-v3": _height_to_lift,
    "door-open-v3": _door_to_open,
    "hammer-v3": _hammer_to_nail,
    "lever-pull-v3": _angle_to_upright,
}

# -------------------------------------------------------------------------------------- variants

_WHITE, _BLACK = (0.92, 0.92, 0.92, 1.0), (0.08, 0.08, 0.08, 1.0)
_RED, _ORANGE = (0.85, 0.1, 0.1, 1.0), (0.95, 0.45, 0.05, 1.0)
_YELLOW, _GREEN = (0.95, 0.85, 0.1, 1.0), (0.1, 0.6, 0.15, 1.0)
_TEAL, _BLUE = (0.05, 0.6, 0.65, 1.0), (0.1, 0.25, 0.85, 1.0)
_PURPLE, _PINK = (0.5, 0.15, 0.7, 1.0), (0.95, 0.45, 0.7, 1.0)

# Parts leave free where the scripted hand goes; the parts of moving things move with them.
VARIANTS: dict[str, Variant] = {
    "button-press-new": Variant(
        base="button-press-v3",
        colours={"btn_yellow": _BLUE, "btn_black": _WHITE, "btn_red": _GREEN},
        parts=(
            Part("button", "box", (0.055, 0.01, 0.055), (0.0, -0.183, 0.0), _GREEN),
            Part("buttonbox", "cylinder", (0.06, 0.03), (0.0, 0.02, 0.15), _WHITE),
        ),
        shift=(0.06, -0.04, 0.0),
    ),
    "drawer-open-new": Variant(
        base="drawer-open-v3",
        colours={"drawer_beige": _ORANGE, "drawer_white": _BLUE},
        parts=(
            Part("drawercase_link", "box", (0.125, 0.11, 0.02), (0.0, 0.0, 0.104), _BLUE),
            Part("drawer_link", "box", (0.08, 0.004, 0.012), (0.0, -0.094, 0.04), _BLUE),
        ),
        shift=(-0.06, -0.04, 0.0),
    ),
    "door-open-new": Variant(
        base="door-open-v3",
        colours={"dl_metal2": _YELLOW, "dl_metal": _RED},
        parts=(
            Part("doorlockB", "cylinder", (0.02, 0.1), (0.0, 0.02, 0.17), _RED, ALONG_X),
            Part("door_link", "box", (0.03, 0.006, 0.03), (0.1, -0.016, 0.07), _WHITE),
        ),
        shift=(0.05, -0.04, 0.0),
    ),
    "window-open-new": Variant(
        base="window-open-v3",
        colours={"window_red": _TEAL, "window_white": _YELLOW},
        parts=(
            Part("window", "box", (0.012, 0.03, 0.18), (-0.24, 0.0, 0.0), _TEAL),
            Part("window", "box", (0.012, 0.03, 0.18), (0.24, 0.0, 0.0), _TEAL),
            Part("window", "box", (0.1, 0.03, 0.01), (0.0, 0.0, 0.2), _YELLOW),
        ),
        shift=(0.05, 0.03, 0.0),
    ),
    "window-close-new": Variant(
        base="window-close-v3",
        colours={"window_red": _PURPLE, "window_white": _WHITE},
        parts=(
            Part("window", "cylinder", (0.03, 0.22), (-0.25, 0.0, 0.0), _WHITE),
            Part("window", "cylinder", (0.03, 0.22), (0.25, 0.0, 0.0), _WHITE),
        ),
        shift=(-0.06, -0.03, 0.0),
    ),
    "button-press-other": Variant(
        base="button-press-v3",
        colours={"btn_yellow": _PURPLE, "btn_black": _TEAL, "btn_red": _YELLOW},
        parts=(
            Part("button", "cylinder", (0.065, 0.01), (0.0, -0.183, 0.0), _YELLOW, ALONG_Y),
            Part("buttonbox", "box", (0.03, 0.1, 0.12), (-0.15, 0.01, 0.0), _YELLOW),
            Part("buttonbox", "box", (0.03, 0.1, 0.12), (0.15, 0.01, 0.0), _YELLOW),
        ),
        shift=(-0.06, 0.02, 0.0),
    ),
    "drawer-open-other": Variant(
        base="drawer-open-v3",
        colours={"drawer_beige": _PURPLE, "drawer_white": _YELLOW},
        parts=(
            Part("drawercase_link", "box", (0.03, 0.1, 0.084), (-0.15, 0.0, 0.0), _YELLOW),
            Part("drawercase_link", "box", (0.03, 0.1, 0.084), (0.15, 0.0, 0.0), _YELLOW),
        ),
        shift=(0.06, -0.05, 0.0),
    ),
    "door-open-other": Variant(
        base="door-open-v3",
        colours={"dl_metal2": _TEAL, "dl_metal": _ORANGE},
        parts=(
            Part("doorlockB", "box", (0.16, 0.08, 0.04), (0.0, 0.02, 0.19), _PINK),
            Part("door_link", "box", (0.15, 0.006, 0.02), (0.17, -0.016, -0.09), _PINK),
        ),
        shift=(0.0, 0.05, 0.0),
    ),
    "window-open-other": Variant(
        base="window-open-v3",
        colours={"window_red": _WHITE, "window_white": _RED},
        parts=(Part("window", "cylinder", (0.018, 0.15), (0.0, 0.02, 0.2), _RED, ALONG_X),),
        shift=(-0.05, -0.03, 0.0),
    ),
    "window-close-other": Variant(
        base="window-close-v3",
        colours={"window_red": _BLUE, "window_white": _ORANGE},
        parts=(
            Part("window", "box", (0.26, 0.05, 0.015), (0.0, 0.0, 0.195), _BLUE),
            Part("window", "sphere", (0.045,), (-0.2, 0.0, 0.23), _ORANGE),
            Part("window", "sphere", (0.045,), (0.2, 0.0, 0.23), _ORANGE),
        ),
        shift=(0.06, 0.02, 0.0),
    ),
    "drawer-close-other": Variant(
        base="drawer-close-v3",
        colours={"drawer_beige": _PINK, "drawer_white": _BLACK},
        parts=(Part("drawercase_link", "cylinder", (0.09, 0.03), (0.0, 0.0, 0.114), _BLACK),),
        shift=(0.06, -0.04, 0.0),
    ),
    "door-close-other": Variant(
        base="door-close-v3",
        colours={"dl_metal2": _RED, "dl_metal": _YELLOW},
        parts=(
            Part("doorlockB", "box", (0.22, 0.1, 0.03), (0.0, 0.0, 0.18), _YELLOW),
            Part("door_link", "box", (0.15, 0.005, 0.02), (0.18, -0.015, 0.08), _YELLOW),
        ),
        shift=(-0.05, -0.04, 0.0),
    ),
    "faucet-open-other": Variant(
        base="faucet-open-v3",
        colours={"faucet_metal": _GREEN, "faucet_red": _YELLOW},
        parts=(
            Part("faucet_link", "cylinder", (0.08, 0.015), (0.0, 0.0, 0.015), _BLUE),
            Part("faucet_link2", "sphere", (0.035,), (0.0, 0.0, 0.04), _BLUE),
        ),
        shift=(0.06, -0.05, 0.0),
    ),
    "faucet-close-other": Variant(
        base="faucet-close-v3",
        colours={"faucet_metal": _ORANGE, "faucet_red": _BLUE},
        parts=(
            Part("faucet_link", "box", (0.07, 0.07, 0.02), (0.0, 0.0, 0.02), _WHITE),
            Part("faucet_link2", "cylinder", (0.045, 0.012), (0.0, 0.0, 0.032), _WHITE),
        ),
        shift=(-0.06, -0.05, 0.0),
    ),
    "handle-press-other": Variant(
        base="handle-press-v3",
        colours={"hdlprs_metal0": _ORANGE, "hdlprs_black": _WHITE, "hdlprs_red": _BLUE},
        parts=(
            Part("handle_link", "cylinder", (0.03, 0.04), (0.0, -0.166, 0.0), _BLUE, ALONG_X),
            Part("hdlprs", "box", (0.03, 0.1, 0.08), (0.13, 0.03, 0.08), _WHITE),
        ),
        shift=(-0.03, 0.07, 0.0),
    ),
}
"""``-new`` variants are for training, ``-other`` variants for evaluation only."""

SPLITS: dict[str, tuple[str, ...]] = {
    "all": tuple(INSTRUCTIONS),
    "ire-expert": (
        "button-press-v3",
        "drawer-open-v3",
        "door-open-v3",
        "window-open-v3",
        "window-close-v3",
        "drawer-close-v3",
        "door-close-v3",
        "faucet-open-v3",
        "faucet-close-v3",
        "handle-press-v3",
        "reach-v3",
        "push-v3",
        "pick-place-v3",
        "button-press-topdown-v3",
        "coffee-button-v3",
        "dial-turn-v3",
        "door-lock-v3",
        "door-unlock-v3",
        "handle-pull-v3",
        "lever-pull-v3",
        "plate-slide-v3",
        "plate-slide-back-v3",
        "sweep-into-v3",
        "push-back-v3",
        "peg-unplug-side-v3",
    ),
    "ire-rl": tuple(name for name in VARIANTS if name.endswith("-new")),
    "ire-unseen": tuple(name for name in VARIANTS if name.endswith("-other")),
}
"""Lists of tasks by name. Those of iRe-VLA (Guo et al., arXiv 2501.16664) have its sizes: 25 tasks
with demonstrations, 5 to practise on, 10 that are only evaluated."""
