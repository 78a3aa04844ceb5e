"""``vla-rl import``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from vla_rl.demos.exchange import formats
from vla_rl.demos.exchange.importing import ImportSettings, import_demos, plan_import
from vla_rl.stages.progress import Progress
from vla_rl.stages.tables import show_demos
from vla_rl.storage.files import require_free
from vla_rl.world import World


@dataclass(frozen=True)
class Command:
    """Import a LeRobotDataset v3 or a Minari dataset as demonstrations for a suite.

    The source may be given first, without `--source`:
    `vla-rl import runs/lerobot --from lerobot --out runs/demos`.
    """

    source: str
    """Folder of the dataset, or the id of a Minari dataset on this machine."""
    form: Annotated[formats.Format, tyro.conf.arg(name="from")]
    """Format of the dataset: `lerobot` or `minari`."""
    out: Path
    """New folder of the demonstrations, for `vla-rl sft --demos`."""
    world: World = field(default_factory=lambda: World(tasks=("all",), max_steps=None))
    """Suite, tasks, cameras and horizon; by default those that vla-rl recorded in the source."""
    settings: Annotated[ImportSettings, tyro.conf.arg(name="")] = field(
        default_factory=ImportSettings
    )
    """How to interpret the dataset."""

    def run(self) -> int:
        """Import the demonstrations and print a summary."""
        require_free(self.out)
        source = formats.load_format(self.form).open_source(self.source)
        planned = plan_import(source, self.world.resolve(), self.settings)
        left = len(source.headers) - len(planned.specs)
        if left:
            print(f"{left} of {len(source.headers)} episodes belong to other tasks; left out")
        with Progress("import", len(planned.specs)) as progress:
            demos = import_demos(source, planned, self.settings, self.out, progress.advance)
        show_demos(demos)
        return 0
