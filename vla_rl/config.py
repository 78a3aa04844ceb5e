"""Settings as JSON and back.

Settings are plain frozen dataclasses, each defined next to what it configures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import pydantic

T = TypeVar("T")


def kind_of(value: Any) -> str | None:
    """What stands before the colon in the ``name`` of settings, as JSON-able data or not."""
    name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
    return name.partition(":")[0] if isinstance(name, str) else None


BY_NAME = pydantic.Discriminator(kind_of)
"""For a field that holds one of several dataclasses, each with its ``pydantic.Tag``: the kind is
given by the field ``name`` that they all have, up to a colon."""


def kinds(hint: Any) -> dict[str, type[Any]]:
    """The dataclasses with a ``name`` that a field of this type may hold, by :func:`kind_of`."""
    if get_origin(hint) in (Annotated, Union, UnionType):
        members = get_args(hint) if get_origin(hint) is not Annotated else get_args(hint)[:1]
        return {name: kind for member in members for name, kind in kinds(member).items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        default = {field.name: field.default for field in dataclasses.fields(hint)}.get("name")
        return {default.partition(":")[0]: hint} if isinstance(default, str) else {}
    return {}


def to_json(value: Any) -> Any:
    """Convert a dataclass to JSON-serialisable data."""
    return pydantic.TypeAdapter(type(value)).dump_python(value, mode="json")


def from_json(kind: type[T], data: Any) -> T:
    """Build a dataclass from JSON data.

    Raises:
        ValueError: If the data do not fit; names the field, its value and what is allowed.
    """
    try:
        return pydantic.TypeAdapter(kind).validate_python(data)
    except pydantic.ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}"
            for e in error.errors()
        )
        raise ValueError(f"not a valid {kind.__name__}: {problems}") from error


def dotted(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested settings as pairs of dotted name and value."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
