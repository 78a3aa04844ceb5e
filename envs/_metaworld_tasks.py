"""The fifty Meta-World tasks: what the policy is told, how hard they are, when they are done."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
