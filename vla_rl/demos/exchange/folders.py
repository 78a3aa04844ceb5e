"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def require_free(folder: Path) -> None:
    """Refuse a target that holds anything, before work starts.

    Raises:
        FileExistsError: If it is a file or a folder that is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not empty; choose another --out, or delete it")


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A path beside the folder for what shall be there; it is moved there if nothing fails.

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
