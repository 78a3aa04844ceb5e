"""Settings that may change when a run is resumed, and how ``config.json`` records it.

An option given with ``--resume`` either takes effect from then on or is rejected:
:data:`MAY_CHANGE` lists all that may change. ``config.json`` holds the current settings, and under
``history`` their earlier values::

    "history": [
        {"resumed_at": {"checkpoints": 5}, "changed": {"learner.lr": [0.0001, 0.005]}}
    ]

``resumed_at`` names each folder of checkpoints of the run and the step of its newest one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from vla_rl.config import dotted, from_json, to_json
from vla_rl.stages.earlier import with_net_of_today
from vla_rl.storage import checkpoint

_LOOP = (
    *("train.iterations", "train.minutes", "train.env_steps", "train.checkpoint_every"),
    *("train.eval_every", "train.eval_episodes", "train.early_stop"),
    *("learner.lr", "learner.vlm_lr", "learner.critic_lr", "learner.std_lr"),
    *("learner.weight_decay", "learner.max_grad_norm"),
)
# Not the number of steps: the schedule of the learning rate depends on it.
_CLONING = ("sft.lr", "sft.weight_decay", "sft.max_grad_norm", "sft.checkpoint_every")
_MACHINE = ("rollout.*", "device")
MAY_CHANGE = {
    "train": (*_LOOP, *_MACHINE),
    "demo": (*_LOOP, *_MACHINE),
    "ire_vla": (*_LOOP, *_CLONING, *_MACHINE),
    "sft": (*_CLONING, "sft.early_stop", "device"),
    "expert": ("steps", "episodes", "checkpoint_every", "eval.*", "world.tasks"),
}
"""Settings by command, named as in ``config.json``; ``*`` matches anything."""

_NO_SETTINGS = ("out", "resume")  # a run folder may be moved
_PATHS = ("policy", "demos")
_AT_THE_TOP = ("world.", "ire.")  # their fields are options without a prefix


def configuration(folder: Path, command: Any, resume: bool) -> dict[str, Any]:
    """Content of a run's ``config.json``.

    Args:
        folder: The run folder.
        command: The parsed dataclass of the command.
        resume: Whether an existing run is resumed.

    Raises:
        ValueError: If a setting differs from the resumed run that must not change.
    """
    name = type(command).__module__.rpartition(".")[2]
    config = {"command": name, **to_json(command)}
    path = folder / "config.json"
    if not resume or not path.exists():
        return config
    saved = json.loads(path.read_text())
    changed = changes(saved, command)
    refused = {key: pair for key, pair in changed.items() if not _may_change(name, key)}
    if refused:
        differences = ", ".join(f"{flag(k)} was {a}, now {b}" for k, (a, b) in refused.items())
        raise ValueError(
            f"the run in {folder} cannot go on with other settings: {differences}. With --resume "
            f"may change: {', '.join(map(flag, MAY_CHANGE[name]))}. Leave the others out, or start "
            "another run with another --out"
        )
    history = saved.get("history", [])
    if changed:
        history = [*history, {"resumed_at": _progress(folder), "changed": changed}]
    return {**config, "history": history} if history else config


def changes(saved: Mapping[str, Any], command: Any) -> dict[str, list[Any]]:
    """Old and new values of the settings that differ from a saved ``config.json``, by name.

    A setting that is missing in the saved file had its default.
    """
    known = {field.name for field in fields(command)}
    options = {k: value for k, value in with_net_of_today(saved).items() if k in known}
    before = dict(dotted(to_json(from_json(type(command), options))))
    after = dict(dotted(to_json(command)))
    return {
        name: [before.get(name), after.get(name)]
        for name in dict.fromkeys([*before, *after])
        if name not in _NO_SETTINGS and not _same(name, before.get(name), after.get(name))
    }


def flag(name: str) -> str:
    """Option of a setting: ``--learner.lr`` for ``learner.lr``, ``--tasks`` for ``world.tasks``."""
    for prefix in _AT_THE_TOP:
        name = name.removeprefix(prefix)
    return f"--{name.replace('_', '-')}"


def _may_change(command: str, name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in MAY_CHANGE[command])


def _same(name: str, old: Any, new: Any) -> bool:
    if name in _PATHS and isinstance(old, str) and isinstance(new, str):
        return Path(old).resolve() == Path(new).resolve()
    return bool(old == new)


def _progress(folder: Path) -> dict[str, int]:
    """Step of the newest complete checkpoint in every folder of checkpoints of a run."""
    roots = {step.parent for step in folder.rglob("step_*") if step.is_dir()}
    return {
        root.relative_to(folder).as_posix(): checkpoint.load(root).step for root in sorted(roots)
    }
