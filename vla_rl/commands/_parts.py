"""Settings with parts that come in kinds: ``--net.head laplace`` says which options a head has."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import tyro

from vla_rl.commands._specialised import specialise
from vla_rl.config import kinds
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
        """Which kind of each part is wanted, as options or else a resumed run say."""
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        for name in self.kinds:
            parser.add_argument(f"--{self.prefix}.{name}", dest=name, nargs="?")
        given = vars(parser.parse_known_args(options)[0])
        wanted = {name: given[name] or (saved.get(name) or {}).get("name") for name in self.kinds}
        return {name: word for name, word in wanted.items() if word}

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
            if part is None:
                parts[name] = (Annotated[None, tyro.conf.Suppress], None)
                continue
            hint = get_type_hints(type(part))["name"]
            every = ", ".join(_shown(word, kind) for word, kind in known.items())
            text = f"Kind, each with settings of its own: {every}."
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
        changes = changed(usual) if usual is not None else {}
        fields = {field.name for field in dataclasses.fields(kind)}
        return kind(**{k: v for k, v in changes.items() if k in fields} | {"name": word})


def _shown(word: str, kind: type[Any]) -> str:
    """What a user may write for a kind: ``timm:MODEL`` where a colon stands in its usual name."""
    return f"{word}:MODEL" if ":" in kind().name else word


def changed(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from its defaults."""
    usual = vars(type(settings)())
    return {name: value for name, value in vars(settings).items() if value != usual[name]}
