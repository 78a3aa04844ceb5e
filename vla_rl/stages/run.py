"""Creating a run folder, and what stages save in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_rl.learning.distributed import ALONE, Ranks
from vla_rl.learning.learner import Learner
from vla_rl.policy import PolicyBase, load_policy
from vla_rl.results.metrics import MetricsWriter, NoMetrics
from vla_rl.results.run_folders import RECORD
from vla_rl.stages import resuming
from vla_rl.storage import checkpoint, hub
from vla_rl.storage.files import free_space_check, replacing, write_json
from vla_rl.storage.state import capture_rng, restore_rng
from vla_rl.world import Arena, write_world

SPACE_FOR_A_RUN = 200 * 2**20  # checkpoints, metrics, video; checked before any long work


@dataclass(frozen=True)
class RunFolder:
    """A run folder and its metrics."""

    folder: Path
    metrics: MetricsWriter


def new_folder(folder: Path, command: Any, resume: bool) -> None:
    """Make a run folder and write the command into ``config.json``.

    Raises:
        FileExistsError: If the folder holds a run and ``resume`` is off.
        OSError: If there is too little disk space.
        ValueError: If ``resume`` is on and a setting differs that must not change.
    """
    if not resume and (folder / "config.json").exists():
        raise FileExistsError(
            f"{folder} already holds a run; choose another --out, delete it, or add --resume"
        )
    folder.mkdir(parents=True, exist_ok=True)
    free_space_check(folder, SPACE_FOR_A_RUN)
    config = resuming.configuration(folder, command, resume)
    write_json(folder / "config.json", config)


def new_run(folder: Path, command: Any, resume: bool, ranks: Ranks = ALONE) -> RunFolder:
    """Make a run folder (:func:`new_folder`); of several ranks, only the main one does."""
    ranks.on_main(lambda: new_folder(folder, command, resume))
    return RunFolder(folder, MetricsWriter(folder) if ranks.is_main else NoMetrics())


def save_policy(
    policy: PolicyBase, arena: Arena, folder: Path, validation: dict[str, Any] | None = None
) -> None:
    """Write a policy with its world and, if it was chosen by an evaluation, that evaluation.

    An older policy in the folder is replaced once the new one is complete.
    """
    with replacing(folder) as fresh:
        policy.save_pretrained(fresh)
        write_world(arena, fresh)
        card = policy.generate_model_card(world=json.loads((fresh / "world.json").read_text()))
        card.save(fresh / hub.CARD)  # now that the world is known
        if validation is not None:
            write_json(fresh / RECORD, validation)


def save_state(root: Path, step: int, learner: Learner, progress: dict[str, object]) -> None:
    """Write policy, optimizer, random generators and the progress of a stage."""
    state = {
        "optimizer": learner.optimizer.state_dict(),
        "rng": capture_rng(),
        **progress,
    }
    checkpoint.save(root, step, learner.policy.save_pretrained, state)


def restore_state(root: Path, learner: Learner) -> dict[str, Any]:
    """Restore the newest valid checkpoint and return its progress; {} if there is none yet."""
    if not root.exists():
        return {}
    found = checkpoint.load(root)
    state, policy = found.state(), learner.policy
    saved = load_policy(found.policy, policy.spaces)
    policy.load_state_dict(saved.state_dict())
    policy.text_memory.update(saved.text_memory)
    learner.optimizer.load_state_dict(state["optimizer"])
    restore_rng(state["rng"])
    return state
