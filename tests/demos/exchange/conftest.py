"""What every test of exchange finds: the suite, and demonstrations of it."""

from __future__ import annotations

import sys

import pytest

from tests.demos.exchange.helpers import MADE, SPACES, TOYS
from vla_rl.demos.demo_set import DemoSet
from vla_rl.world import World, write_world


@pytest.fixture(autouse=True)
def toys(tmp_path, monkeypatch) -> None:
    """A suite of two views and two tasks; and no datasets of other people."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "toys.py").write_text(TOYS)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.delitem(sys.modules, "toys", raising=False)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


@pytest.fixture
def demos(tmp_path) -> DemoSet:
    """Three episodes in two appends, as `vla-rl record` leaves them."""
    made = DemoSet.create(tmp_path / "demos", "toys", {"image_size": 16}, SPACES)
    write_world(World("toys", ("push", "pull"), (25,)).resolve(), made.path)
    made.append(MADE[:2])
    made.append(MADE[2:])
    return made
