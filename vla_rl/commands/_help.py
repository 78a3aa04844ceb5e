"""Help in two steps: a command's own options first, and those of its groups where asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import Field, fields
from typing import Annotated, Any, NoReturn, get_type_hints

import tyro

from vla_rl import plugins
from vla_rl.commands._specialised import default_of, specialise

HELP_ALL = "--help-all"


def show_help(command: type, wanted: list[str], program: str) -> NoReturn:
    """Print the command's own options and the names of the others, or some groups of those.

    Raises:
        ValueError: If there is no such group.
    """
    groups = {each.name: (kind, each) for each, kind in _groups(command)}
    for name in wanted:
        if name not in groups:
            raise ValueError(plugins.unknown("group of options", name, groups))
    if wanted:
        shown: Any = dataclasses.make_dataclass(
            "Groups", [(name, *groups[name]) for name in wanted]
        )
    else:
        hidden = {
            name: (Annotated[kind, tyro.conf.Suppress], default_of(each))
            for name, (kind, each) in groups.items()
        }
        shown = specialise(command, **hidden)
    with contextlib.suppress(SystemExit):
        tyro.cli(shown, args=["--help"], prog=program, description=command.__doc__)
    if groups and not wanted:
        print(f"Further options, which `{program} --help GROUP` or `{HELP_ALL}` explains:\n")
        for name, (kind, _) in groups.items():
            text = f"--{name}.  {', '.join(_option_names(kind))}"
            print(textwrap.fill(text, 80, subsequent_indent="    ", break_on_hyphens=False))
    sys.exit(0)


def _groups(command: type) -> Iterator[tuple[Field[Any], type]]:
    """The fields that are dataclasses of options under their name, ``--train.`` and the like."""
    hints = get_type_hints(command, include_extras=True)
    for each in fields(command):
        kind = hints[each.name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type) and fields(kind):
            yield each, kind


def _option_names(group: type) -> Iterator[str]:
    hints = get_type_hints(group)
    for each in fields(group):
        kind = hints[each.name]
        name = each.name.replace("_", "-")
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            if any(option.name == "name" for option in fields(kind)):
                yield name  # the name of a kind stands for the part
            yield from (f"{name}.{o}" for o in _option_names(kind) if o != "name")
        elif each.init:
            yield name
