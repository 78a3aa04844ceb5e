"""``vla-rl export``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vla_rl.demos.demo_set import DemoSet
from vla_rl.demos.exchange import formats
from vla_rl.stages.progress import Progress
from vla_rl.storage.files import require_free


@dataclass(frozen=True)
class Command:
    """Export demonstrations as a LeRobotDataset v3 or a Minari dataset."""

    demos: Annotated[Path, tyro.conf.Positional]
    """Folder of demonstrations (`vla-rl record`)."""
    to: formats.Format
    """Format: `lerobot`, or `minari`, where OUT becomes a folder for MINARI_DATASETS_PATH."""
    out: Path
    """New folder of the exported dataset."""
    fps: int = 20
    """Only for `lerobot`: steps per second, for its timestamps; at least 1."""
    video: bool = False
    """Only for `lerobot`: encode images as video, which is smaller but lossy."""
    dataset_id: str | None = None
    """Only for `minari`: id of the dataset, namespace/name-v0; by default the one in the
    demonstrations' metadata."""

    def run(self) -> int:
        """Export the demonstrations and print how to read them."""
        require_free(self.out)
        if self.to == "minari" and self.video:
            raise ValueError("--video is an option of --to lerobot")
        if self.to == "lerobot" and self.dataset_id is not None:
            raise ValueError("--dataset-id is an option of --to minari")
        made = formats.load_format(self.to)
        demos = DemoSet.open(self.demos)
        folder = self.out.resolve()
        if self.to == "lerobot":
            with Progress("export", len(demos)) as progress:
                made.export(demos, folder, self.fps, self.video, progress.advance)
            how = f"LeRobotDataset('local/{folder.name}', root='{folder}')"
        else:
            with Progress("export", len(made.files_to_copy(demos))) as progress:
                name = made.export(demos, folder, self.dataset_id, progress.advance)
            how = f"minari.load_dataset({name!r}) where MINARI_DATASETS_PATH is {folder}"
        print(f"{len(demos)} episodes written to {self.out}; read them with {how}")
        return 0
