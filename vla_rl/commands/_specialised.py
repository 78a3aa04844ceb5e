"""Dataclasses of options in which the settings of a plug-in stand."""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, Field, field
from typing import Any, TypeVar

T = TypeVar("T")


def default_of(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    assert field.default_factory is not MISSING, f"{field.name} needs a default"
    return field.default_factory()


def specialise(base: type[T], **changes: tuple[Any, Any]) -> type[T]:
    """A dataclass like ``base`` in which the named fields have other types and defaults.

    That is how ``--help`` shows the options of the algorithm, suite or policy that was named.
    """
    made = [(name, kind, field(default=value)) for name, (kind, value) in changes.items()]
    return dataclasses.make_dataclass(
        base.__name__,
        made,
        bases=(base,),
        frozen=True,
        namespace={"__doc__": base.__doc__, "__module__": base.__module__},
    )
