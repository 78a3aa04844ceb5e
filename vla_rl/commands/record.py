"""``vla-rl record``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vla_rl.rollout.collector import RolloutConfig
from vla_rl.stages.record import episodes_by_task, new_demos, record_stage
from vla_rl.stages.setup import open_collector
from vla_rl.stages.tables import show_demos
from vla_rl.world import World


@dataclass(frozen=True)
class Command:
    """Record demonstrations with the suite's scripted experts."""

    out: Path = Path("runs/demos")
    """Folder for the demonstrations."""
    world: World = field(default_factory=lambda: World(max_steps=None))
    """Suite, tasks, cameras and horizon."""
    episodes: tuple[int, ...] = (10,)
    """Number of starts to record: one for all tasks, or one for each task; solved ones are kept."""
    first: int = 0
    """Index of the first start; another one gives different demonstrations."""
    append: bool = False
    """Append to existing demonstrations of the same suite and settings."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Settings of collecting episodes."""

    def run(self) -> int:
        """Record demonstrations and print a summary."""
        arena = self.world.resolve()
        counts = episodes_by_task(arena.tasks, self.episodes)
        demos = new_demos(self.out, arena, self.append)
        with open_collector(arena, self.rollout, None) as collector:
            record_stage(collector, demos, arena, counts, self.first)
        show_demos(demos)
        return 0
