"""Settings with parts that come in kinds: ``--net.head laplace`` says which options a head has."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import tyro

from vla_rl.commands._specialised import specialise
from vla_rl.config import kind_of, kinds
from vla_rl.plugins import unknown


@dataclass(frozen=True)
class Parts:
    """The parts of some settings that come in kinds.

    Attributes:
        settings: A dataclass.
        prefix: Of its options, as ``net``.
        kinds: The dataclasses of each such part, by what stands before the colon of their name.
    """

    settings: type[Any]
    prefix: str
    kinds: Mapping[str, Mapping[str, type[Any]]]

    @classmethod
    def of(cls, settings: type[Any], prefix: str) -> Parts:
        """Those of a dataclass."""
        hints = get_type_hints(settings, include_extras=True)
        found = {f.name: kinds(hints[f.name]) for f in dataclasses.fields(settings)}
        return cls(settings, prefix, {name: some for name, some in found.items() if some})

    def named(self, options: list[str], saved: Mapping[str, Any]) -> dict[str, str]:
        """Which kind of each part is wanted, by the options or else by a resumed run.

        Raises:
            ValueError: If a kind is given twice, or is not that of the resumed run.
        """
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        for name in self.kinds:
            parser.add_argument(f"--{self.prefix}.{name}", dest=name, action="append", default=[])
        given = vars(parser.parse_known_args(options)[0])
        wanted: dict[str, str] = {}
        for name in self.kinds:
            before = (saved.get(name) or {}).get("name")
            words = given[name] or ([before] if before else [])
            if len(words) > 1:
                raise ValueError(f"--{self.prefix}.{name} is given twice: {' and '.join(words)}")
            if before and words != [before]:
                raise ValueError(
                    f"the run cannot go on with another {name}: --{self.prefix}.{name} was "
                    f"{before}, now {words[0]}; leave it out, or start another run with another "
                    "--out"
                )
            if words:
                wanted[name] = words[0]
        return wanted

    def specialised(self, default: Any, named: Mapping[str, str]) -> tuple[type[Any], Any]:
        """The settings as a dataclass whose parts are of the wanted kinds, and its defaults.

        Args:
            default: Settings. What a part of another kind has in common with the default's keeps
                the changes that were made there.
            named: From :meth:`named`.

        Raises:
            ValueError: If a kind is unknown.
        """
        parts: dict[str, tuple[Any, Any]] = {}
        for name, known in self.kinds.items():
            part = vars(default)[name]
            if name in named:
                part = self._part(name, named[name], part)
            every = ", ".join(_shown(word, kind) for word, kind in known.items())
            text = f"Kind, each with settings of its own: {every}."
            if part is None:  # its settings are shown once it is named
                parts[name] = (
                    Annotated[str | None, tyro.conf.arg(metavar="NAME", help=text)],
                    None,
                )
                continue
            hint = get_type_hints(type(part))["name"]
            option = tyro.conf.arg(name="", metavar="NAME", help=text)
            typed = specialise(type(part), name=(Annotated[hint, option], part.name))
            parts[name] = (typed, typed(**vars(part)))
        made = specialise(self.settings, **parts)
        return made, made(**vars(default) | {name: part for name, (_, part) in parts.items()})

    def _part(self, name: str, word: str, usual: Any) -> Any:
        known = self.kinds[name]
        kind = known.get(word.partition(":")[0])
        if kind is None:
            raise ValueError(unknown(name, word, known))
        return _with_changes(kind(name=word), usual)


def _shown(word: str, kind: type[Any]) -> str:
    """What a user may write for a kind: ``timm:MODEL`` where a colon stands in its usual name."""
    usual = {field.name: field.default for field in dataclasses.fields(kind)}["name"]
    return f"{word}:MODEL" if ":" in str(usual) else word


def adopted(default: Any, settings: type[Any]) -> Any:
    """Settings with their own defaults, but for what ``default`` changes, where it is known.

    A part of a kind that these settings do not have gives what it changes to theirs.
    """
    made = settings()
    own = {field.name for field in dataclasses.fields(settings)}
    parts = Parts.of(settings, "").kinds
    for name, value in changed(default).items():
        if name not in own:
            continue
        if not dataclasses.is_dataclass(value):
            made = dataclasses.replace(made, **{name: value})
        elif name in parts and (part := vars(made)[name]) is not None:
            kind = parts[name].get(str(kind_of(value)))
            part = kind(name=vars(value)["name"]) if kind else part
            made = dataclasses.replace(made, **{name: _with_changes(part, value)})
    return made


def _with_changes(part: Any, other: Any) -> Any:
    """A part with what another one, if any, changes about fields that both have."""
    known = {field.name for field in dataclasses.fields(part)} - {"name"}
    changes = {} if other is None else changed(other)
    return dataclasses.replace(part, **{k: v for k, v in changes.items() if k in known})


def changed(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from its defaults."""
    usual = vars(type(settings)())
    return {name: value for name, value in vars(settings).items() if value != usual[name]}
