"""Elements of the kitchen in another colour and another place."""

from __future__ import annotations

from vla_rl.envs._mujoco.variants import Variant

_RED, _YELLOW = (0.8, 0.08, 0.08, 1.0), (0.95, 0.8, 0.1, 1.0)

# Red ones stand to the right and nearer to the robot, yellow ones to the left and higher.
VARIANTS: dict[str, Variant] = {
    "slide-cabinet-red": Variant(
        base="slide-cabinet",
        colours={"M_slide_blue": _RED},
        shift=(0.03, -0.03, 0.0),
        body="slidecabinet",
    ),
    "hinge-cabinet-red": Variant(
        base="hinge-cabinet",
        colours={"M_hinge_blue": _RED},
        shift=(0.02, -0.03, 0.0),
        body="hingecabinet",
    ),
    "slide-cabinet-yellow": Variant(
        base="slide-cabinet",
        colours={"M_slide_blue": _YELLOW},
        shift=(-0.02, 0.0, 0.03),
        body="slidecabinet",
    ),
    "hinge-cabinet-yellow": Variant(
        base="hinge-cabinet",
        colours={"M_hinge_blue": _YELLOW},
        shift=(-0.03, 0.0, 0.03),
        body="hingecabinet",
    ),
    "microwave-yellow": Variant(
        base="microwave",
        colours={"micro_black": _YELLOW},
        shift=(-0.03, -0.03, 0.0),
        body="microwave",
    ),
}
