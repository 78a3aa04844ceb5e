"""Options of a command from its dataclass, by tyro.

A command may name plug-ins (``--suite``, ``--network``, ``--algorithm``). Their settings are the
fields of a dataclass of the plug-in, so the named plug-ins are loaded first, and ``--help`` shows
their options too.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from vla_rl import plugins
from vla_rl.config import World, read_world, specialise

T = TypeVar("T")

# field of a command: (plug-in kind, option that names the plug-in, name in the module)
PLUGIN_SETTINGS = {
    "net": ("policies", "network", "Config"),
    "algo": ("algorithms", "algorithm", "Algorithm"),
}


def parse(command: type[T], options: list[str], program: str) -> T:
    """An instance of the command's dataclass; exits with a message for ``--help`` or bad options.

    Raises:
        ValueError: For an unknown plug-in.
    """
    known = {field.name: field for field in fields(command)}  # type: ignore[arg-type]
    changes: dict[str, tuple[Any, Any]] = {}
    for name, (kind, option, attribute) in PLUGIN_SETTINGS.items():
        if name in known:
            chosen = given(options, option) or _default(known[option])
            settings = vars(plugins.load(kind, chosen))[attribute]
            changes[name] = (settings, _given_default(known[name], settings))
    if "world" in known:
        world = _world(known, options)
        # The world's own fields stand at the top: `--tasks`, not `--world.tasks`.
        changes["world"] = (Annotated[type(world), tyro.conf.arg(name="")], world)
    made = specialise(command, **changes) if changes else command
    return tyro.cli(made, args=options, prog=program, description=command.__doc__)


def given(options: list[str], name: str) -> str | None:
    """The value that was given for ``--name``, if any."""
    flag = f"--{name.replace('_', '-')}"
    for index, word in enumerate(options):
        if word == flag and index + 1 < len(options):
            return options[index + 1]
        if word.startswith(flag + "="):
            return word.partition("=")[2]
    return None


def _world(known: dict[str, Field[Any]], options: list[str]) -> Any:
    """The world a command starts from: that of the policy or demonstrations it is given."""
    world = _default(known["world"])
    source = next((given(options, n) for n in ("policy", "demos") if n in known), None)
    if source is not None and (Path(source) / "world.json").exists():
        world = read_world(Path(source))
    suite = given(options, "suite") or world.suite
    settings = plugins.load("envs", suite).Settings
    env = world.env if isinstance(world.env, settings) else settings()
    typed = specialise(World, env=(settings, env))
    same_suite = suite == world.suite
    return typed(
        suite=suite,
        tasks=world.tasks if same_suite else ("all",),
        max_steps=world.max_steps if same_suite else None,
        env=env,
    )


def _default(field: Field[Any]) -> Any:
    return field.default if field.default is not MISSING else field.default_factory()  # type: ignore[misc]


def _given_default(field: Field[Any], settings: type) -> Any:
    """The command's own settings for its default plug-in, else the plug-in's defaults."""
    default = _default(field)
    return default if isinstance(default, settings) else settings()
