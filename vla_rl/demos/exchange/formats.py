"""Formats by name; the library of a format is imported only when it is needed."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Literal, get_args

Format = Literal["lerobot", "minari"]

_ADVICE = {
    "lerobot": "LeRobot's own library, which reads and writes the format: "
    "pip install 'vla-rl[lerobot]' (in an environment of its own if you use other versions of "
    "torch or transformers than it allows)",
    "minari": "Minari: pip install 'minari[hdf5]'",
}


def load_format(name: Format) -> ModuleType:
    """Import the module of a format.

    Raises:
        ValueError: If there is no such format, or its library is not installed; says how to
            install it.
    """
    if name not in get_args(Format):
        raise ValueError(f"unknown format {name!r}; allowed: {', '.join(get_args(Format))}")
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"the format {name} needs {_ADVICE[name]}")
    return importlib.import_module(f"vla_rl.demos.exchange.{name}_format")
