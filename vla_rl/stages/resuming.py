"""What may differ when a run goes on with ``--resume``, and what ``config.json`` then says.

An option that is given with ``--resume`` takes effect from where the run goes on, or is refused:
:data:`MAY_CHANGE` is the whole list. ``config.json`` holds the settings in force, and under
``history`` what they were before::

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

from vla_rl.config import flat, from_json, to_json
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
"""Options by command, as in ``config.json``; ``*`` stands for anything."""

_NO_SETTINGS = ("out", "resume")  # where a run is may change, and is no part of what it does
_PATHS = ("policy", "demos")
_AT_THE_TOP = ("world.", "ire.")  # whose fields are options without a prefix


def configuration(folder: Path, command: Any, resume: bool) -> dict[str, Any]:
    """What ``config.json`` of a run says.

    Args:
        folder: Of the run.
        command: The command's dataclass, as it was parsed.
        resume: Whether a run that is there goes on.

    Raises:
        ValueError: If something differs from the run that goes on and may not.
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
    """Settings in which a command differs from a saved ``config.json``: old and new, by name.

    A setting that the saved file does not know yet had its default.
    """
    known = {field.name for field in fields(command)}
    options = {name: value for name, value in saved.items() if name in known}
    before = dict(flat(to_json(from_json(type(command), options))))
    after = dict(flat(to_json(command)))
    return {
        name: [before.get(name), after.get(name)]
        for name in dict.fromkeys([*before, *after])
        if name not in _NO_SETTINGS and not _same(name, before.get(name), after.get(name))
    }


def flag(name: str) -> str:
    """The option of a setting: ``--learner.lr`` for ``learner.lr``, ``--tasks`` for its world's."""
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
    """The newest whole checkpoint of every folder of them in a run."""
    roots = {step.parent for step in folder.rglob("step_*") if step.is_dir()}
    return {
        root.relative_to(folder).as_posix(): checkpoint.load(root).step for root in sorted(roots)
    }
