"""Training checkpoints, robust against kills, full disks and damaged files; without pickle.

Layout below a root folder, for instance ``RUN/checkpoints``::

    step_000010/
        policy/               whatever the policy's ``save_pretrained`` writes
        tensors.safetensors   the tensors of the state: optimizer moments and the like
        state.json            the rest of the state, with placeholders for tensors
        manifest.json         size and SHA-256 of every other file

A checkpoint is written to a temporary sibling folder and renamed when it is complete; it is used
only if every file matches the manifest.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vla_rl.storage.files import sync
from vla_rl.storage.state import flatten, unflatten

FORMAT = 1
_POLICY, _TENSORS, _STATE, _MANIFEST = (
    "policy",
    "tensors.safetensors",
    "state.json",
    "manifest.json",
)
_TEMPORARY = ".saving-"
# A checkpoint that is being replaced by one of the same step temporarily has this suffix.
_NAME = re.compile(r"step_(\d{6,})(\.old)?")
_ADVICE = "start again without --resume, or put a copy of a checkpoint there"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files match its manifest.

    Attributes:
        path: Its folder.
        step: The step at which it was saved.
    """

    path: Path
    step: int

    @property
    def policy(self) -> Path:
        """Folder of the saved policy."""
        return self.path / _POLICY

    def state(self) -> dict[str, Any]:
        """The state that was given to :func:`save`, bit-equal; tensors are on the CPU."""
        tensors = load_file(self.path / _TENSORS)
        state: dict[str, Any] = unflatten(json.loads((self.path / _STATE).read_text()), tensors)
        return state


def save(
    root: Path,
    step: int,
    write_policy: Callable[[Path], None],
    state: Mapping[str, object],
    keep: int = 2,
) -> Path:
    """Write a checkpoint, then remove outdated ones.

    These are all but the newest ``keep`` and, when a run returned to an earlier checkpoint, all
    later ones. A kill at any time leaves the older ones valid. Only one process may save below a
    root at a time.

    Args:
        root: Folder of all checkpoints of a run; made if it does not exist.
        step: Step of training, from 0.
        write_policy: Writes the policy into the given folder (which does not exist yet).
        state: Everything else that resuming needs: nested dicts, lists and tuples of JSON values,
            tensors, NumPy arrays and bytes, for instance ``{"optimizer": optimizer.state_dict(),
            "rng": capture_rng()}``.
        keep: Number of checkpoints to keep, at least 1.

    Returns:
        The folder of the new checkpoint.

    Raises:
        ValueError: If ``keep`` or ``step`` is out of range, or something in the state cannot be
            stored.
        OSError: If writing failed, for instance on a full disk; earlier checkpoints are intact.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    if step < 0:
        raise ValueError(f"step must not be negative, got {step}")
    root.mkdir(parents=True, exist_ok=True)
    for stale in root.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(stale)
    temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=root))
    try:
        _write(temporary, step, write_policy, state)
        target = _put_in_place(temporary, root / f"step_{step:06d}")
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"could not save the checkpoint of step {step} below {root}: {error} "
            f"({shutil.disk_usage(root).free / 1e6:.0f} MB free there). Earlier checkpoints are "
            "intact; free some space and resume"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _prune(root, step, keep)
    return target


def load(root: Path) -> Checkpoint:
    """Find the newest valid checkpoint; warns about newer damaged ones.

    Raises:
        ValueError: If there is none; lists the damaged ones.
    """
    problems: list[str] = []
    for folder in _newest_first(root):
        problem = _problem(folder)
        if problem is None:
            if problems:
                warnings.warn(
                    f"{'; '.join(problems)}. Using the older {folder.name} instead", stacklevel=2
                )
            return Checkpoint(folder, _step(folder))
        problems.append(f"checkpoint {folder} is damaged: {problem}")
    if problems:
        raise ValueError(f"no checkpoint can be used: {'; '.join(problems)}; {_ADVICE}")
    raise ValueError(f"there is no checkpoint in {root}; {_ADVICE}")


def _write(
    folder: Path, step: int, write_policy: Callable[[Path], None], state: Mapping[str, object]
) -> None:
    data, tensors = flatten(state)
    write_policy(folder / _POLICY)
    save_file(tensors, folder / _TENSORS)
    (folder / _STATE).write_text(json.dumps(data))
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    manifest = {
        "format": FORMAT,
        "step": step,
        "files": {file.relative_to(folder).as_posix(): _fingerprint(file) for file in files},
    }
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2))
    for path in [*files, folder / _MANIFEST, *(p for p in folder.rglob("*") if p.is_dir()), folder]:
        sync(path)


def _put_in_place(temporary: Path, target: Path) -> Path:
    if target.exists():
        old = target.with_name(f"{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)  # load() still finds it if a kill happens now
    temporary.chmod(0o755)  # mkdtemp makes private folders
    temporary.rename(target)
    sync(target.parent)
    return target


def _prune(root: Path, step: int, keep: int) -> None:
    """Keep the newest checkpoints up to the one just written."""
    folders = _newest_first(root)
    current = [f for f in folders if _step(f) <= step and not f.name.endswith(".old")]
    for folder in folders:
        if folder not in current[:keep]:
            shutil.rmtree(folder)


def _newest_first(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    found = [path for path in root.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda f: (_step(f), not f.name.endswith(".old")), reverse=True)


def _step(folder: Path) -> int:
    match = _NAME.fullmatch(folder.name)
    assert match is not None  # _newest_first lists no other
    return int(match[1])


def _problem(folder: Path) -> str | None:
    """Description of what is wrong with a checkpoint, or None."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            return f"it has format {manifest['format']}, this version reads {FORMAT}"
        files: dict[str, Any] = manifest["files"]
        for required in (_TENSORS, _STATE):
            if required not in files:
                return f"{_MANIFEST} does not list {required}"
        return next(filter(None, (_file_problem(folder / n, f) for n, f in files.items())), None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{_MANIFEST} cannot be read ({type(error).__name__}: {error})"


def _file_problem(file: Path, expected: Mapping[str, Any]) -> str | None:
    if not file.is_file():
        return f"{file.name} is missing"
    size = file.stat().st_size
    if size != expected["bytes"]:
        return f"{file.name} has {size} bytes instead of {expected['bytes']}"
    if _fingerprint(file) != expected:
        return f"the content of {file.name} has changed"
    return None


def _fingerprint(file: Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
            size += len(block)
    return {"bytes": size, "sha256": digest.hexdigest()}
