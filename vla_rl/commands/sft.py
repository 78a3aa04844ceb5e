"""``vla-rl sft``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vla_rl.sft import SFTConfig
from vla_rl.stages.record import fitting_demos
from vla_rl.stages.run import new_run, save_policy
from vla_rl.stages.setup import new_policy
from vla_rl.stages.sft import check_demos, sft_stage
from vla_rl.world import World


@dataclass(frozen=True)
class Command:
    """Clone a policy from demonstrations (supervised fine-tuning)."""

    demos: Path
    """Folder of demonstrations (`vla-rl record`)."""
    out: Path = Path("runs/sft")
    """Run folder; the cloned policy goes to OUT/policy."""
    resume: bool = False
    """Resume from the newest valid checkpoint in OUT."""
    world: World = field(default_factory=World)
    """Suite, tasks and horizon; by default those of the demonstrations."""
    network: str = "vla"
    """Policy network: a name from `vla-rl list policies`, or a dotted path."""
    net: Any = None
    """Settings of the network."""
    sft: SFTConfig = field(default_factory=SFTConfig)
    """Settings of behaviour cloning."""
    seed: int = 0
    """Seed of weights, order and augmentation."""
    device: str = "auto"
    """Device of the policy: `auto` (a GPU if there is one), `cpu` or `cuda`."""

    def run(self) -> int:
        """Clone the demonstrations and save the policy."""
        arena = self.world.resolve()
        demos = fitting_demos(self.demos, arena)
        check_demos(demos, arena, self.sft, self.seed)
        policy = new_policy(self.network, self.net, arena.spaces, self.seed, self.device)
        run = new_run(self.out, self, self.resume)
        sft_stage(run, policy, demos, arena, self.sft, self.seed, self.resume)
        save_policy(policy, arena, run.folder / "policy")
        print(f"policy written to {run.folder / 'policy'}")
        return 0
