"""From the text that a user writes to a Gymnasium environment: ids and keyword arguments."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import io
import json
import re
from collections.abc import Sequence
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, registry

AnyEnv = gymnasium.Env[Any, Any]

# What the suite itself tells gymnasium.make, and where a user says it.
_RESERVED = {
    "id": "gym:ID",
    "render_mode": "image",
    "max_episode_steps": "--max-steps",
    "disable_env_checker": "nothing: the suite has checks of its own",
}


def find(env_id: str) -> EnvSpec:
    """The registered environment called ``[module:][namespace/]name-vN``.

    Packages register their environments when they are imported: ``module`` is imported if it is
    given, else the module that is called like the namespace, and gymnasium_robotics.

    Raises:
        ValueError: If there is no such id, with near ones, or the module cannot be imported.
    """
    module, colon, name = env_id.rpartition(":")
    if colon:
        _import(module, env_id)
    namespace = name.partition("/")[0] if "/" in name else ""
    for package in (namespace, "gymnasium_robotics"):
        if name not in registry and package and _is_module(package):
            _import(package, env_id)
    if name not in registry:
        near = difflib.get_close_matches(name, registry, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(repr(found) for found in near)}?" if near else ""
        raise ValueError(
            f"unknown Gymnasium id {name!r}{hint} One that a package registers when it is imported "
            "is named with the package: gym:PACKAGE:ID"
        )
    return registry[name]


def instruction(env_id: str) -> str:
    """The words of an id: ``"fetch pick and place"`` for ``FetchPickAndPlace-v4``."""
    name = re.sub(r"-v\d+$", "", env_id.rpartition(":")[2].rpartition("/")[2])
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    return " ".join(words).lower() or env_id.lower()


def make(env_id: str, arguments: Sequence[str], render_mode: str | None = None) -> AnyEnv:
    """An environment without a time limit.

    Args:
        env_id: See :func:`find`.
        arguments: Keyword arguments for it as ``"key=value"``; see :func:`keywords`.
        render_mode: What it is asked to draw, if anything.

    Raises:
        ValueError: If the id is unknown, an argument is malformed, or it cannot be made.
    """
    spec = find(env_id)
    asked = keywords(arguments)
    if render_mode is not None:
        asked["render_mode"] = render_mode
    try:
        return gymnasium.make(spec, max_episode_steps=-1, disable_env_checker=True, **asked)
    except Exception as error:  # whatever somebody else's constructor raises
        raise ValueError(
            f"gym:{env_id} cannot be made with {asked or 'its own arguments'}: "
            f"{type(error).__name__}: {error}"
        ) from error


def keywords(arguments: Sequence[str]) -> dict[str, Any]:
    """``("obs_type=pixels", "gain=2")`` as a dictionary; a value is JSON if it can be, else text.

    Raises:
        ValueError: If one is not ``key=value``, is given twice, or is set in another way.
    """
    asked: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"kwargs {argument!r} must be key=value, for instance obs_type=pixels")
        if key in _RESERVED:
            raise ValueError(f"kwargs {argument!r}: {key} is set by {_RESERVED[key]}")
        if key in asked:
            raise ValueError(f"kwargs {argument!r}: {key} is given twice")
        try:
            asked[key] = json.loads(text)
        except json.JSONDecodeError:
            asked[key] = text
    return asked


def _is_module(name: str) -> bool:
    return name.isidentifier() and importlib.util.find_spec(name) is not None


def _import(module: str, env_id: str) -> None:
    # gymnasium_robotics prints a notice on some of its environments at every import.
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"gym:{env_id}: {module!r} cannot be imported: {error}") from error
