"""``vla-rl compare``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vla_rl.statistics import EvalResult
from vla_rl.tables import show_comparison


@dataclass(frozen=True)
class Command:
    """Compare two evaluations (files that `vla-rl eval` or a demo wrote)."""

    before: Annotated[Path, tyro.conf.Positional]
    """Evaluation of the earlier policy."""
    after: Annotated[Path, tyro.conf.Positional]
    """Evaluation of the later policy, on the same starts under the same protocol."""

    def run(self) -> int:
        """Print the paired differences; different protocols are refused."""
        results = [EvalResult.from_json(path.read_text()) for path in (self.before, self.after)]
        show_comparison(*results)
        return 0
