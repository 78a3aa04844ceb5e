"""Plug-ins by name: a file name inside the package, or a dotted path to a user's own module.

A plug-in kind is a folder and a plug-in is a module in it that defines the agreed names. Nothing is
registered at import; a module is imported when somebody asks for it by name.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable
from types import ModuleType

REQUIRED_NAMES: dict[str, tuple[str, ...]] = {
    "envs": ("Settings", "tasks", "spaces", "make"),
    "policies": ("Config", "Policy"),
    "algorithms": ("Algorithm",),
    "rewards": ("reward",),
    "curricula": ("Curriculum",),
}


def names(kind: str) -> list[str]:
    """Names of the plug-ins of a kind that ship with the package.

    Raises:
        ValueError: If the kind is unknown.
    """
    if kind not in REQUIRED_NAMES:
        raise ValueError(f"unknown plug-in kind {kind!r}; allowed: {', '.join(REQUIRED_NAMES)}")
    package = importlib.import_module(f"vla_rl.{kind}")
    found = (module.name for module in pkgutil.iter_modules(package.__path__))
    return sorted(name for name in found if not name.startswith("_"))


def load(kind: str, name: str) -> ModuleType:
    """Import a plug-in by file name (``"loop"``) or import path (``"my_lab.my_loop"``).

    Raises:
        ValueError: If there is no such plug-in, or the module lacks one of the agreed names.
    """
    shipped = names(kind)
    path = f"vla_rl.{kind}.{name}" if name in shipped else name
    if _missing(path):
        raise ValueError(unknown(f"{kind} plug-in", name, shipped) + ", or a module of yours")
    module = importlib.import_module(path)
    lacking = [required for required in REQUIRED_NAMES[kind] if required not in vars(module)]
    if lacking:
        raise ValueError(f"{path} must define {', '.join(lacking)} to be one of the {kind}")
    return module


def unknown(what: str, name: str, allowed: Iterable[str]) -> str:
    """A sentence for an unknown name that offers the near ones first."""
    choices = list(allowed)
    near = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    shown = ", ".join(choices if len(choices) <= 60 else [*choices[:60], "..."])
    return f"unknown {what} {name!r}; {hint}allowed: {shown}"


def _missing(path: str) -> bool:
    try:
        return importlib.util.find_spec(path) is None
    except ModuleNotFoundError:
        return True
