"""Variants of tasks: the same skill on a thing of other colours, another shape, another place.

A variant changes the simulated MuJoCo model before it is compiled, so images, contacts and physics
agree. The instruction stays the same: only the images show the difference.

MuJoCo is imported when a model is made, so that listing tasks needs neither it nor a GL library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from vla_rl.plugins import unknown

if TYPE_CHECKING:
    import mujoco

Shape = Literal["box", "cylinder", "capsule", "sphere"]
Colour = tuple[float, float, float, float]
"""Red, green, blue and opacity, each in [0, 1]."""
Place = tuple[float, float, float]
"""Metres."""

ALONG_X = (0.5**0.5, 0.0, 0.5**0.5, 0.0)
"""Quaternion that lays a cylinder or capsule, which stands along z, along the body's x axis."""
ALONG_Y = (0.5**0.5, 0.5**0.5, 0.0, 0.0)
"""The same for the y axis."""

_VISIBLE_GROUP = 1
"""A geom group that MuJoCo draws, and that neither suite counts for the inertia of a body."""


@dataclass(frozen=True)
class Part:
    """A shape that is added to a body: it is seen and touched, and weighs nothing.

    Attributes:
        body: Name of the body that it moves with.
        shape: box, cylinder, capsule or sphere.
        size: In metres, as MuJoCo has it: half edges of a box, radius and half length of a cylinder
            or capsule, radius of a sphere.
        place: Its middle in the body's frame.
        colour: Of its surface.
        turn: Quaternion (w, x, y, z) in the body's frame.
    """

    body: str
    shape: Shape
    size: tuple[float, ...]
    place: Place
    colour: Colour
    turn: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)  # told apart by identity, so that a cache can go by it
class Variant:
    """How a task differs from the one that it is a variant of.

    Attributes:
        base: Id of that task.
        colours: New colours of materials of the model, by name.
        parts: What is added to its bodies.
        shift: How far the thing stands from where it would, in metres.
        body: Name of the body that the model shifts; empty where the suite places the thing itself
            at every start.
    """

    base: str
    colours: Mapping[str, Colour] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    shift: Place = (0.0, 0.0, 0.0)
    body: str = ""


def model_of(variant: Variant, path: str) -> mujoco.MjModel:
    """The model of an XML file, changed as a variant has it.

    Raises:
        ValueError: If the model has no such material or body, or nothing on a body that a part
            belongs to can be touched, which would tell how the part is.
    """
    import mujoco

    spec = mujoco.MjSpec.from_file(path)
    for name, colour in variant.colours.items():
        _named("material", name, spec.materials).rgba = colour
    for part in variant.parts:
        _add(part, _named("body", part.body, spec.bodies))
    if variant.body:
        body = _named("body", variant.body, spec.bodies)
        body.pos = body.pos + variant.shift
    return spec.compile()


def _named(what: str, name: str, things: Sequence[Any]) -> Any:
    for thing in things:
        if thing.name == name:
            return thing
    raise ValueError(unknown(f"{what} of the model", name, [t.name for t in things if t.name]))


def _add(part: Part, body: Any) -> None:
    import mujoco

    # It touches as the thing itself does, whose geoms may belong to unnamed child bodies.
    touched = next((geom for geom in body.find_all("geom") if geom.conaffinity), None)
    if touched is None:
        raise ValueError(f"nothing on body {part.body!r} can be touched; add the part to another")
    body.add_geom(
        type=mujoco.mjtGeom.__members__[f"mjGEOM_{part.shape.upper()}"],
        size=[*part.size, *[0.0] * (3 - len(part.size))],
        pos=part.place,
        quat=part.turn,
        rgba=part.colour,
        group=_VISIBLE_GROUP,
        mass=0.0,
        contype=touched.contype,
        conaffinity=touched.conaffinity,
        condim=touched.condim,
        friction=touched.friction,
        margin=touched.margin,
        solref=touched.solref,
        solimp=touched.solimp,
    )
