"""Plug-ins by name: a file name inside the package, or a dotted path to a user's own module.

A kind of plug-in is a folder, and a plug-in is a module in it that defines the required names.
Nothing is registered at import; a module is imported when it is first requested by name.

An installed package may offer plug-ins by short names, as entry points of the groups
``vla_rl.envs``, ``vla_rl.policies``, ... whose values are modules::

    [project.entry-points."vla_rl.envs"]
    my_kitchen = "my_lab.kitchen"

A *family* of suites is one module that makes many: ``gym:CartPole-v1`` is the suite that
``suite("CartPole-v1")`` of the module ``gym`` returns.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import importlib.util
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

REQUIRED_NAMES: dict[str, tuple[str, ...]] = {
    "envs": ("Settings", "tasks", "spaces", "make"),
    "policies": ("Config", "Policy"),
    "algorithms": ("Algorithm",),
    "rewards": ("Reward",),
    "curricula": ("Curriculum",),
}
FAMILY = "suite"
"""Name of the function ``suite(parameter) -> ModuleType`` that makes a module a family; the
module's ``PARAMETER`` names what users write after the colon."""


def names(kind: str) -> list[str]:
    """Names of all plug-ins of a kind, from this package and from entry points of others.

    A family is listed with its parameter, for instance ``gym:ID``.

    Raises:
        ValueError: If the kind is unknown.
    """
    found = sorted({*_shipped(kind), *_offered(kind)})
    return [_titled(_path(kind, name), name) for name in found] if kind == "envs" else found


def load(kind: str, name: str) -> ModuleType:
    """Import a plug-in by name (``"loop"``) or import path (``"my_lab.my_loop"``).

    Raises:
        ValueError: If there is no such plug-in, the module lacks one of the required names, or a
            family is named without its parameter.
    """
    base, colon, parameter = name.partition(":")
    path = _path(kind, base)
    if _missing(path):
        if "." in base:
            raise ValueError(
                f"the module {base!r} ({kind}) cannot be imported from {Path.cwd()}: start the "
                f"command from the folder that holds {base.partition('.')[0]!r}, install its "
                "package, or check the spelling"
            )
        raise ValueError(unknown(f"{kind} plug-in", name, names(kind)) + ", or a dotted path")
    module = importlib.import_module(path)
    family = vars(module).get(FAMILY)
    if family is not None:
        if not parameter:
            raise ValueError(f"{base!r} is a family of {kind}: name one as {_titled(path, base)}")
        module = family(parameter)
    elif colon:
        raise ValueError(f"{name!r}: {base} is not a family of {kind}; name it without the colon")
    lacking = [required for required in REQUIRED_NAMES[kind] if required not in vars(module)]
    if lacking:
        raise ValueError(f"{path} must define {', '.join(lacking)} to be one of the {kind}")
    return module


def unknown(what: str, name: str, allowed: Iterable[str]) -> str:
    """An error message for an unknown name, with similar names first."""
    choices = list(allowed)
    near = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    shown = ", ".join(choices if len(choices) <= 60 else [*choices[:60], "..."])
    return f"unknown {what} {name!r}; {hint}allowed: {shown}"


@functools.cache
def _shipped(kind: str) -> frozenset[str]:
    if kind not in REQUIRED_NAMES:
        raise ValueError(f"unknown plug-in kind {kind!r}; allowed: {', '.join(REQUIRED_NAMES)}")
    package = importlib.import_module(f"vla_rl.{kind}")
    found = (module.name for module in pkgutil.iter_modules(package.__path__))
    return frozenset(name for name in found if not name.startswith("_"))


@functools.cache
def _offered(kind: str) -> dict[str, str]:
    """Modules that installed packages offer as entry points, by name."""
    group = importlib.metadata.entry_points(group=f"vla_rl.{kind}")
    return {point.name: point.module for point in group}


def _path(kind: str, name: str) -> str:
    if name in _shipped(kind):
        return f"vla_rl.{kind}.{name}"
    return _offered(kind).get(name, name)


def _titled(path: str, name: str) -> str:
    """The name as users write it; for a family, with its ``PARAMETER`` after the colon."""
    module = importlib.import_module(path)
    return f"{name}:{vars(module)['PARAMETER']}" if FAMILY in vars(module) else name


def _missing(path: str) -> bool:
    try:
        return importlib.util.find_spec(path) is None
    except (ModuleNotFoundError, ValueError):
        return True
