"""The picture of success over environment steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.results.helpers import spread
from vla_rl.results.aggregate import Curve
from vla_rl.results.curves import draw_curves


def test_many_curves_and_long_labels_are_drawn(tmp_path: Path) -> None:
    x = np.linspace(0, 1e6, 20)
    one = Curve("loop", 1, x, x / 1e6)
    sure = replace(one, runs=3, low=x / 2e6, high=np.minimum(1.5 * x / 1e6, 1))
    draw_curves([one], tmp_path / "one.png", "one")
    draw_curves([sure], tmp_path / "sure.png", "one")
    many = [replace(sure, label=f"an algorithm with a long name lr={i}") for i in range(14)]
    draw_curves(many, tmp_path / "many.png", "many")
    assert all(spread(tmp_path / f"{name}.png") > 5 for name in ("one", "sure", "many"))
    pictures = [np.asarray(Image.open(tmp_path / f"{n}.png"), float) for n in ("one", "sure")]
    assert np.abs(pictures[1] - pictures[0]).mean() > 1, "the band is missing"
    with pytest.raises(ValueError, match="no curve"):
        draw_curves([], tmp_path / "none.png", "none")
