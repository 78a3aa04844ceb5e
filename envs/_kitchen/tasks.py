"""What can be done in the kitchen, and variants in another colour and another place."""

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
BASES: dict[str, str] = {name: variant.base for name, variant in VARIANTS.items()}
"""Of which element each variant is one."""
ELEMENTS: dict[str, str] = {
    "bottom-burner": "turn on the bottom burner",
    "top-burner": "turn on the top burner",
    "light-switch": "turn on the light",
    "slide-cabinet": "slide the cabinet open",
    "hinge-cabinet": "open the hinged cabinet",
    "microwave": "open the microwave",
    "kettle": "move the kettle",
}
"""What can be done, and how it is said."""
SEQUENCES: dict[str, tuple[str, ...]] = {
    "kitchen-complete": ("microwave", "kettle", "light-switch", "slide-cabinet"),
    "kitchen-mixed": ("microwave", "kettle", "bottom-burner", "light-switch"),
    "kitchen-burners": ("bottom-burner", "top-burner", "light-switch", "slide-cabinet"),
    "kitchen-stove": ("kettle", "bottom-burner", "top-burner", "slide-cabinet"),
    "kitchen-all": (
        "microwave",
        "kettle",
        "bottom-burner",
        "top-burner",
        "light-switch",
        "slide-cabinet",
        "hinge-cabinet",
    ),
}
"""Elements to be done in one episode; the first two are those of the D4RL data sets."""
