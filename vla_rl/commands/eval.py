"""``vla-rl eval``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vla_rl.evaluate import EvalConfig, with_protocol
from vla_rl.policy import PolicyBase, load_policy
from vla_rl.results.protocol_id import shortest
from vla_rl.results.run_folders import BEST
from vla_rl.rollout.collector import RolloutConfig
from vla_rl.stages.evaluate import evaluate_stage
from vla_rl.stages.setup import new_policy, open_collector, pick_device
from vla_rl.stages.tables import show_evaluation
from vla_rl.types import Spaces
from vla_rl.world import World

DEFAULT_NETWORK = "vla"


@dataclass(frozen=True)
class Command:
    """Evaluate a policy on starts that it was never trained on, each once, without noise."""

    policy: Path | None = None
    """Folder of a saved policy (for instance RUN/policy, or RUN/best of a run with validation), or
    its name on the Hugging Face hub (`user/name`, `user/name@revision`)."""
    network: str = DEFAULT_NETWORK
    """Network with published weights, such as `lerobot`, instead of a saved policy."""
    net: Any = None
    """Settings of that network, for instance --net.model."""
    world: World = field(default_factory=World)
    """Suite, tasks, cameras and horizon; by default those of the policy's training."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Settings of the evaluation."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Settings of collecting episodes."""
    out: Path | None = None
    """File for the result (JSON). By default <starts>_<protocol>.json next to the policy's folder
    (eval_custom.json; for RUN/best eval_custom_best.json), or in the current folder for a policy on
    the hub."""
    device: str = "auto"
    """Device of the policy: `auto` (a GPU if there is one), `cpu` or `cuda`."""

    def run(self) -> int:
        """Evaluate, print the table and write the result."""
        arena = self.world.resolve()
        _, protocol = with_protocol(arena, self.eval)
        policy = self._policy(arena.spaces)
        beside = self.policy.parent if self.policy and self.policy.exists() else Path()
        best = f"_{BEST}" if self.policy and self.policy.name == BEST else ""
        out = self.out or beside / f"{protocol.starts}_{protocol.name}{best}.json"
        with open_collector(arena, self.rollout, policy) as collector:
            result, _ = evaluate_stage(collector, policy, arena, self.eval, "evaluate")
        out.write_text(result.to_json())
        show_evaluation(result)
        print(f"written to {out}")
        for shorter in result.each_horizon()[:-1]:
            steps = "+".join(map(str, shortest(list(shorter.horizons.values()))))
            beside = out.with_name(f"{out.stem}_within_{steps}{out.suffix}")
            beside.write_text(shorter.to_json())
            print(f"success within {steps} steps: {beside}")
        return 0

    def _policy(self, spaces: Spaces) -> PolicyBase:
        if self.policy is not None:
            return load_policy(self.policy, spaces).to(pick_device(self.device))
        if self.network == DEFAULT_NETWORK:
            raise ValueError(
                "eval needs a policy: --policy FOLDER, or a network with published weights "
                "(--network lerobot --net.model FOLDER)"
            )
        return new_policy(self.network, self.net, spaces, seed=0, device=self.device)
