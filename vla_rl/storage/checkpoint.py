"""Training checkpoints that survive kills, full disks and damaged files; nothing is unpickled.

Layout below a root folder, for instance ``RUN/checkpoints``::

    step_000010/
        policy/               whatever the policy's ``save_pretrained`` writes
        tensors.safetensors   the tensors of the state: optimizer moments and the like
        state.json            everything else of the state, with a mark where a tensor was
        manifest.json         size and SHA-256 of every other file

A checkpoint is written to a temporary sibling folder and renamed when it is complete; it is trusted
only when every file agrees with the manifest.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT = 1
_POLICY, _TENSORS, _STATE, _MANIFEST = (
    "policy",
    "tensors.safetensors",
    "state.json",
    "manifest.json",
)
_TEMPORARY = ".saving-"
# A checkpoint that is being replaced by one of the same step keeps this ending for a moment.
_NAME = re.compile(r"step_(\d{6,})(\.old)?")
_ADVICE = "start again without resuming, or put a copy of a checkpoint there"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files agree with its manifest.

    Attributes:
        path: Its folder.
        step: The step it was saved at.
    """

    path: Path
    step: int

    @property
    def policy(self) -> Path:
        """Folder that the policy wrote itself into."""
        return self.path / _POLICY

    def state(self) -> dict[str, Any]:
        """What was given to :func:`save`, bit for bit; tensors are on the CPU."""
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
    """Write a checkpoint, then remove the ones that it makes superfluous.

    Those are all but the newest ``keep`` and, when a run went back to an earlier checkpoint, the
    later ones of the abandoned future. A kill at any time leaves the older ones valid. Only one
    process may save below a root at a time.

    Args:
        root: Folder of all checkpoints of a run; made if it is not there.
        step: Of training, from 0.
        write_policy: Writes the policy into the folder it is given (which does not exist yet).
        state: Whatever else resuming needs: nested dicts, lists and tuples of JSON values, tensors,
            NumPy arrays and bytes, for instance ``{"optimizer": optimizer.state_dict(), "rng":
            capture_rng()}``.
        keep: How many checkpoints to keep, at least 1.

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
    """The newest checkpoint that is whole; newer damaged ones are named in a warning.

    Raises:
        ValueError: If there is none, listing what was tried.
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


def free_space_check(path: Path, needed: int) -> None:
    """Require free space before long work.

    Args:
        path: Where it is needed; need not exist yet.
        needed: Bytes.

    Raises:
        OSError: If there is less, with both figures.
    """
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise OSError(
            f"{path} needs {needed / 1e6:.1f} MB but only {free / 1e6:.1f} MB are free there; "
            "free some space or choose another folder"
        )


def write_json(path: Path, content: object) -> None:
    """Write a JSON file so that a kill leaves either the old or the new one."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    _sync(temporary)
    os.replace(temporary, path)
    _sync(path.parent)


# -------------------------------------------------------------------------- state as plain files


def flatten(state: object, name: str = "state") -> tuple[Any, dict[str, Tensor]]:
    """Take the tensors out of nested state, for instance of ``optimizer.state_dict()``.

    Args:
        state: Nested dicts (with keys of any JSON type), lists, tuples, JSON values, tensors, NumPy
            arrays and scalars, and bytes.
        name: Prefix of the tensors' names.

    Returns:
        JSON-able data and tensors by name (on the CPU); :func:`unflatten` gives back the state, bit
        for bit, except that NumPy scalars become Python numbers.

    Raises:
        ValueError: If something cannot be stored, saying where it is.
    """
    tensors: dict[str, Tensor] = {}
    return _flatten(state, name, tensors), tensors


def unflatten(data: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The state that :func:`flatten` took apart."""
    if isinstance(data, list):
        return [unflatten(item, tensors) for item in data]
    if not isinstance(data, dict):
        return data
    if _KIND not in data:
        return {key: unflatten(value, tensors) for key, value in data.items()}
    return _UNFLATTEN[data[_KIND]](data["value"], tensors)


_KIND = "__kind__"


def _marked(kind: str, value: object) -> dict[str, object]:
    return {_KIND: kind, "value": value}


def _flatten(value: object, name: str, tensors: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        unique = name if name not in tensors else f"{name}#{len(tensors)}"
        # Always a copy, since safetensors refuses tensors that share memory.
        tensors[unique] = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        return _marked("tensor", unique)
    if isinstance(value, np.ndarray):
        return _marked("array", _array_to_json(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes):
        return _marked("bytes", base64.b64encode(value).decode())
    if isinstance(value, list | tuple):
        items = [_flatten(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else _marked("tuple", items)
    if isinstance(value, Mapping):
        pairs = [[k, _flatten(v, f"{name}.{k}", tensors)] for k, v in value.items()]
        plain = all(isinstance(key, str) and key != _KIND for key in value)
        return dict(pairs) if plain else _marked("dict", pairs)
    raise ValueError(
        f"{name} is a {type(value).__name__}, which a checkpoint cannot hold; allowed: None, bool, "
        "int, float, str, bytes, list, tuple, dict, NumPy arrays and torch tensors"
    )


_UNFLATTEN: dict[str, Callable[[Any, Mapping[str, Tensor]], Any]] = {
    "tensor": lambda name, tensors: tensors[name],
    "array": lambda data, _: _array_from_json(data),
    "bytes": lambda data, _: base64.b64decode(data),
    "tuple": lambda items, tensors: tuple(unflatten(items, tensors)),
    "dict": lambda pairs, tensors: {key: unflatten(value, tensors) for key, value in pairs},
}


def _array_to_json(array: np.ndarray[Any, Any]) -> dict[str, object]:
    if array.dtype.hasobject:
        raise ValueError(f"an array of {array.dtype} cannot be held in a checkpoint")
    data = base64.b64encode(array.tobytes()).decode()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": data}


def _array_from_json(data: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    flat = np.frombuffer(base64.b64decode(data["data"]), np.dtype(data["dtype"]))
    return flat.reshape(data["shape"]).copy()


# --------------------------------------------------------------------------------- random numbers

Generators = Mapping[str, np.random.Generator | torch.Generator]


def capture_rng(generators: Generators | None = None) -> dict[str, Any]:
    """The state of every random generator, JSON-able.

    Args:
        generators: Generators of one's own by name, besides the global ones of Python, NumPy and
            torch (CPU and every GPU).
    """
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    states = {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state().numpy(),
        "cuda": [state.numpy() for state in on_gpu],
        "own": {name: _own_state(own) for name, own in (generators or {}).items()},
    }
    return cast("dict[str, Any]", flatten(states)[0])


def restore_rng(state: Mapping[str, Any], generators: Generators | None = None) -> None:
    """Put every random generator back to a captured state.

    With another number of GPUs than at capture, those that exist are restored, with a warning.

    Raises:
        ValueError: If the named generators are not those of the capture.
    """
    states, own = unflatten(state, {}), generators or {}
    if set(own) != set(states["own"]):
        raise ValueError(f"generators {sorted(own)} were given, saved were {sorted(states['own'])}")
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(torch.from_numpy(states["torch"]))
    gpus = torch.cuda.device_count()
    if gpus != len(states["cuda"]):
        warnings.warn(
            f"random state was saved with {len(states['cuda'])} GPUs and {gpus} are here; noise "
            "drawn on GPUs will differ from that of an uninterrupted run",
            stacklevel=2,
        )
    for device, gpu_state in enumerate(states["cuda"][:gpus]):
        torch.cuda.set_rng_state(torch.from_numpy(gpu_state), device)
    for name, generator in own.items():
        _restore_own(generator, states["own"][name])


def _own_state(generator: np.random.Generator | torch.Generator) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state().numpy()
    return generator.bit_generator.state


def _restore_own(generator: np.random.Generator | torch.Generator, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(torch.from_numpy(state))
    else:
        generator.bit_generator.state = state


# ------------------------------------------------------------------------------------ the folders


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
        _sync(path)


def _put_in_place(temporary: Path, target: Path) -> Path:
    if target.exists():
        old = target.with_name(f"{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)  # still found by load(), should a kill come now
    temporary.chmod(0o755)  # mkdtemp makes private folders
    temporary.rename(target)
    _sync(target.parent)
    return target


def _prune(root: Path, step: int, keep: int) -> None:
    """Keep the newest ones up to the one just written."""
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
    """What is wrong with a checkpoint, or None."""
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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
