"""A policy on disk: tensors in safetensors files and a ``config.json``; never pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

DESCRIPTION = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def write(
    folder: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any], shard: int | str
) -> None:
    """Write tensors and a description, in several files if larger than ``shard`` bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    huggingface_hub.save_torch_state_dict(dict(tensors), folder, max_shard_size=shard)
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def describe(folder: Path) -> dict[str, Any]:
    """Read the description of a saved policy.

    Raises:
        ValueError: If the folder has no readable description.
    """
    found = _json(folder / DESCRIPTION)
    lacking = {"class", "config", "spaces", "sentences"} - found.keys()
    if lacking:
        raise ValueError(f"{folder / DESCRIPTION} lacks {', '.join(sorted(lacking))}")
    return found


def tensors(folder: Path) -> dict[str, Tensor]:
    """Read all tensors of a folder, on the CPU.

    Raises:
        ValueError: If a file is missing or damaged.
    """
    files = [WEIGHTS]
    if (folder / INDEX).is_file():
        files = sorted(set(_json(folder / INDEX)["weight_map"].values()))
    found: dict[str, Tensor] = {}
    for name in files:
        found.update(_load(folder / name))
    return found


def _load(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or incomplete: {error}") from error


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is missing; is {path.parent} the folder of a saved policy?")
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged or incomplete: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return found
