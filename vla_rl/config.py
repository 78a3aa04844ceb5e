"""Settings as JSON and back.

Settings are plain frozen dataclasses, each defined next to what it configures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import pydantic

T = TypeVar("T")


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
