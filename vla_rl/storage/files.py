"""Atomic writes: files and folders are written under another name, synced, then renamed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def free_space_check(path: Path, needed: int) -> None:
    """Require free space before long work.

    Args:
        path: Where the space is needed; need not exist yet.
        needed: Bytes.

    Raises:
        OSError: If there is less; names both numbers.
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
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_free(folder: Path) -> None:
    """Require that a folder is new or empty, before work starts.

    Raises:
        FileExistsError: If it is a file or a folder that is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not empty; choose another --out, or delete it")


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Yield a temporary path for a new folder, which is moved into place if nothing fails.

    Raises:
        FileExistsError: As :func:`require_free`.
    """
    folder = folder.resolve()
    require_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{folder.name}-", dir=folder.parent, ignore_cleanup_errors=True
    ) as temporary:
        made = Path(temporary) / folder.name
        yield made
        os.replace(made, folder)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield a temporary path for a new version of a folder, moved into place if nothing fails.

    The old version is moved aside until the new one is in place. If a kill happens in between,
    :func:`standing` finds the old one. Only one process may write a folder at a time.
    """
    fresh, aside = folder.with_name(f".{folder.name}.new"), _aside(folder)
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        yield fresh
        for file in fresh.rglob("*"):
            sync(file)
        if folder.exists():
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(folder, aside)
        os.replace(fresh, folder)
        sync(folder.parent)
        shutil.rmtree(aside, ignore_errors=True)
    except Exception:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def standing(folder: Path) -> Path:
    """The folder, or its old version if :func:`replacing` was killed before it had finished."""
    return _aside(folder) if not folder.exists() and _aside(folder).exists() else folder


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")


@contextmanager
def temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A folder on the same file system as its parent, removed at the end."""
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as name:
        yield Path(name)
