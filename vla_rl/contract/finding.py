"""What a check says: what it found, and what to fix where the contract is broken."""

from __future__ import annotations

import inspect
import json
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from vla_rl.config import from_json, to_json
from vla_rl.plugins import unknown
from vla_rl.types import Check

MADE = "__dataclass_params__"
PLAIN = "use plain field types: numbers, strings, booleans and tuples of them"

T = TypeVar("T")


class Finding(NamedTuple):
    """What a check found, and a remark; empty if there is nothing to say."""

    found: str
    advice: str = ""


class Broken(Exception):
    """The contract is broken."""

    def __init__(self, found: str, advice: str) -> None:
        """What was found, and what to fix."""
        super().__init__(found, advice)
        self.finding = Finding(found, advice)


def run(name: str, check: Callable[[T], Finding], on: T) -> Check:
    """Run one check; whatever it raises is part of the report."""
    try:
        return Check(name, True, *check(on))
    except Broken as broken:
        return Check(name, False, *broken.finding)
    except Exception as error:
        # What is examined may raise anything, and the report must go on.
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"raised in line {last.lineno} of {Path(last.filename).name}, {last.name}()"
        return Check(name, False, f"{type(error).__name__}: {error}", where)


def known(check: str, checks: Collection[str]) -> str:
    """A name of a check.

    Raises:
        ValueError: If there is no such check.
    """
    if check not in checks:
        raise ValueError(unknown("check", check, checks))
    return check


def each(checks: Iterable[str], run_one: Callable[[str], Check]) -> Iterator[Check]:
    """Run every check, and continue after a failure unless the first one, ``names``, fails."""
    for name in checks:
        done = run_one(name)
        yield done
        if name == "names" and not done.ok:
            return


def insist(done: Iterable[tuple[str, Check]]) -> None:
    """Refuse checks that failed.

    Args:
        done: What was looked at, and what was found there.

    Raises:
        AssertionError: With what was found and what to fix.
    """
    bad = [f"{where}: {each.found}; {each.advice}" for where, each in done if not each.ok]
    if bad:
        raise AssertionError("\n".join(bad))


def plain_settings(kind: type, chosen: Any) -> Finding:
    """Settings are a frozen dataclass that survives JSON."""
    frozen = is_dataclass(kind) and getattr(kind, MADE).frozen
    # A field of a class that only inherits from a dataclass would be no setting.
    forgotten = MADE not in vars(kind) and inspect.get_annotations(kind)
    if not frozen or forgotten:
        raise Broken(
            f"{kind.__name__} is no frozen dataclass", "write @dataclass(frozen=True) above it"
        )
    text = json.dumps(to_json(chosen))
    back: Any = from_json(kind, json.loads(text))
    if back != chosen:
        raise Broken(f"{chosen} comes back from JSON as {back}", PLAIN)
    return Finding(text)
