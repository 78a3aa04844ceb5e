"""Write the tables of README and documentation from ``benchmarks/results``.

Each benchmark defines its tables in ``TABLES``; a table stands between two comments with the
name of its result.

    python -m benchmarks.tables [--check]
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benchmarks
from benchmarks._record import RESULTS

ROOT = Path(__file__).parent.parent


def tables() -> dict[str, Callable[[dict[str, Any]], str]]:
    """What makes a table, by the name of the result."""
    found: dict[str, Callable[[dict[str, Any]], str]] = {}
    for script in pkgutil.iter_modules(benchmarks.__path__):
        if not script.name.startswith("_"):
            module = importlib.import_module(f"benchmarks.{script.name}")
            found |= vars(module).get("TABLES", {})
    return found


def pages() -> list[Path]:
    """Where tables may stand."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def filled(text: str) -> str:
    """A page with every table whose result is there."""
    for name, make in tables().items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        path = RESULTS / f"{name}.json"
        if path.exists() and start in text:
            head, tail = text.split(start)[0], text.split(end)[1]
            text = f"{head}{start}\n{make(json.loads(path.read_text()))}\n{end}{tail}"
    return text


def main() -> None:
    """Write the pages, or with ``--check`` fail if one is not up to date."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    for page in pages():
        old = page.read_text()
        new = filled(old)
        if check and new != old:
            raise SystemExit(f"the tables of {page} differ from benchmarks/results")
        page.write_text(new)


if __name__ == "__main__":
    main()
