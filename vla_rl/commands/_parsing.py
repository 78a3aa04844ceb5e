"""Options of a command from its dataclass, by tyro.

A command may name plug-ins (``--suite`` or ``--env``, ``--network``, ``--algorithm``). Their
settings are the fields of a dataclass of the plug-in, so the named plug-ins are loaded first, and
``--help`` shows their options too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import Field, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from vla_rl import plugins
from vla_rl.commands._help import HELP_ALL, show_help
from vla_rl.commands._parts import Parts, adopted
from vla_rl.commands._specialised import default_of, specialise
from vla_rl.config import from_json
from vla_rl.rewards import settings_types
from vla_rl.stages.earlier import with_net_of_today
from vla_rl.world import World, read_world

T = TypeVar("T")

SUITE = ("suite", "env")
"""Options that name the suite; ``--env.image-size`` and the like are the suite's settings."""

# field of a command: (plug-in kind, option that names the plug-in, name in the module)
PLUGIN_SETTINGS = {
    "net": ("policies", "network", "Config"),
    "algo": ("algorithms", "algorithm", "Algorithm"),
}


def parse(command: type[T], options: list[str], program: str) -> T:
    """An instance of the command's dataclass; exits with a message for ``--help`` or bad options.

    With ``--resume`` the settings of the interrupted run are the defaults. Where there is a world,
    a first word that is no option names what is read, or else its suite. ``--help`` shows a
    command's own options and names the others, ``--help GROUP`` shows a group of those and
    ``--help-all`` everything.

    Raises:
        ValueError: For an unknown plug-in, a run that cannot be resumed, or help that there is not.
    """
    known = {field.name: field for field in fields(command)}  # type: ignore[arg-type]
    if "world" in known and options and not options[0].startswith("-"):
        # `vla-rl import FOLDER`, `vla-rl check gym:CartPole-v1`
        options = ["--source" if "source" in known else "--env", *options]
    named = naming_options(options)
    saved = _saved(known, named)
    changes: dict[str, tuple[Any, Any]] = {}
    for name, (kind, option, attribute) in PLUGIN_SETTINGS.items():
        if name in known:
            chosen = vars(named)[option] or saved.get(option) or default_of(known[option])
            if chosen is None:  # a command that works without one
                changes[name] = (Annotated[None, tyro.conf.Suppress], None)
                continue
            module = plugins.load(kind, chosen)
            settings = vars(module)[attribute]
            # What a command changes is for fresh weights: a model that was trained knows better.
            trained = name == "net" and named.model is not None
            usual = default_of(known[name])
            default = settings() if trained or usual is None else adopted(usual, settings)
            parts = Parts.of(settings, name)
            changes[name] = parts.specialised(default, parts.named(options, saved.get(name) or {}))
    if "reward" in known:
        chosen = named.rewards or saved.get("rewards") or default_of(known["rewards"])
        changes["reward"] = _reward_settings(chosen)
    if "world" in known:
        suite = named.suite or saved.get("world", {}).get("suite")
        world = _world(known, named, suite)
        # The world's own fields stand at the top: `--tasks`, not `--world.tasks`.
        changes["world"] = (Annotated[type(world), tyro.conf.arg(name="")], world)
    made = specialise(command, **changes) if changes else command
    if named.help is not None:
        show_help(made, named.help, program)
    resumed = from_json(made, saved) if saved else None
    options = ["--help" if word == HELP_ALL else word for word in options]
    parsed: T = tyro.cli(  # type: ignore[assignment]
        made, args=options, prog=program, description=command.__doc__, default=resumed
    )
    return parsed


def naming_options(options: list[str]) -> argparse.Namespace:
    """The options that say which other options there are; the others are left for tyro."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(*(f"--{name}" for name in SUITE), dest="suite", nargs="?")
    parser.add_argument("--net.model", dest="model", nargs="?")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("-h", "--help", nargs="*")
    for name in ("network", "algorithm", "policy", "demos", "source", "out"):
        parser.add_argument(f"--{name}", nargs="?")
    for name in ("tasks", "rewards"):
        parser.add_argument(f"--{name}", nargs="*", default=[])
    return parser.parse_known_args(options)[0]


def _saved(known: dict[str, Field[Any]], named: argparse.Namespace) -> dict[str, Any]:
    """The configuration of the run to go on with; empty if none is."""
    if "resume" not in known or not named.resume:
        return {}
    path = Path(named.out or default_of(known["out"])) / "config.json"
    if not path.exists():
        raise ValueError(f"nothing to resume: {path} does not exist; start without --resume")
    try:
        saved: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return {name: value for name, value in with_net_of_today(saved).items() if name in known}


def _reward_settings(names: Sequence[str]) -> tuple[type, Any]:
    """A dataclass with the settings of every reward, and its defaults."""
    kinds = settings_types(names)
    # Made anew for every command: a reward may have state.
    options = [(name, kind, field(default_factory=kind)) for name, kind in kinds.items()]
    settings = dataclasses.make_dataclass("Rewards", options, frozen=True)
    return settings, settings()


def _world(known: dict[str, Field[Any]], named: argparse.Namespace, suite: str | None) -> Any:
    """The world a command starts from: that of the policy or demonstrations it is given."""
    world = default_of(known["world"])
    source = next((vars(named)[n] for n in ("policy", "demos", "source") if n in known), None)
    if source is not None and "policy" in known and not Path(source).exists():
        from vla_rl.storage import hub  # imports torch, which most commands would not

        source = str(hub.find(source, named=[suite]))  # as it is, if it names no repository
    if source is not None and (Path(source) / "world.json").exists():
        world = read_world(Path(source))
    suite = suite or world.suite
    settings = plugins.load("envs", suite).Settings
    same_suite = suite == world.suite
    # Suites of one family share the type of their settings, but one's need not suit another.
    env = world.env if same_suite and isinstance(world.env, settings) else settings()
    alias = tyro.conf.arg(aliases=[f"--{SUITE[1]}"])
    typed = specialise(World, suite=(Annotated[str, alias], suite), env=(settings, env))
    return typed(
        suite=suite,
        tasks=world.tasks if same_suite else ("all",),
        max_steps=_horizons(world, named.tasks) if same_suite else None,
        env=env,
        instruction=world.instruction if same_suite else None,
    )


def _horizons(world: World, named: Sequence[str]) -> tuple[int, ...] | None:
    """The world's horizons for the tasks that were named; the suite's own if it has not all."""
    if not named or world.max_steps is None or len(world.max_steps) == 1:
        return world.max_steps
    known = world.resolve().horizons
    wanted = replace(world, tasks=tuple(named)).task_ids()
    return tuple(known[task] for task in wanted) if known.keys() >= set(wanted) else None
