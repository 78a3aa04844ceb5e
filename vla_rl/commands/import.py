"""``vla-rl import``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from vla_rl.demos.exchange import formats
from vla_rl.demos.exchange.adopt import Reading, adopt, plan
from vla_rl.stages.progress import Progress
from vla_rl.stages.tables import show_demos
from vla_rl.storage.files import require_free
from vla_rl.world import World


@dataclass(frozen=True)
class Command:
    """Read a LeRobotDataset v3 or a Minari dataset as demonstrations for a suite.

    The source may be the first word: `vla-rl import runs/lerobot --from lerobot --out runs/demos`.
    """

    source: str
    """Folder of the dataset, or the id of a Minari dataset on this machine."""
    form: Annotated[formats.Format, tyro.conf.arg(name="from")]
    """Its format."""
    out: Path
    """A new folder, for `vla-rl sft --demos`."""
    world: World = field(default_factory=lambda: World(tasks=("all",), max_steps=None))
    """Which suite, tasks, cameras and horizon; by default those that vla-rl left in the source."""
    reading: Annotated[Reading, tyro.conf.arg(name="")] = field(default_factory=Reading)
    """How the source is understood."""

    def run(self) -> int:
        """Read, write and show what there is."""
        require_free(self.out)
        source = formats.load(self.form).open_source(self.source)
        planned = plan(source, self.world.resolve(), self.reading)
        left = len(source.headers) - len(planned.specs)
        if left:
            print(f"{left} of {len(source.headers)} episodes are of other tasks and left out")
        with Progress("import", len(planned.specs)) as progress:
            demos = adopt(source, planned, self.reading, self.out, progress.advance)
        show_demos(demos)
        return 0
