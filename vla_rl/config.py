"""Typed configuration: plain frozen dataclasses, each beside the thing it configures.

Here is only how they are written as JSON and read again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import pydantic

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """A dataclass as JSON-able data."""
    return pydantic.TypeAdapter(type(value)).dump_python(value, mode="json")


def from_json(kind: type[T], data: Any) -> T:
    """A dataclass from JSON-able data.

    Raises:
        ValueError: Naming the field, the offending value and what is allowed.
    """
    try:
        return pydantic.TypeAdapter(kind).validate_python(data)
    except pydantic.ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}"
            for e in error.errors()
        )
        raise ValueError(f"not a valid {kind.__name__}: {problems}") from error


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted name."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
