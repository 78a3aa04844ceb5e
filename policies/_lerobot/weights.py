"""Weights and normalisation of a LeRobot policy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lerobot.configs.types import NormalizationMode
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model
from torch import Tensor, nn

from vla_rl.policies._lerobot.description import _WEIGHTS

# Steps of a preprocessor whose work is done here or, on whole batches and sentences, elsewhere.
_KNOWN_STEPS = (
    *("rename_observations_processor", "to_batch_processor", "device_processor"),
    *("tokenizer_processor", "smolvla_new_line_processor", "normalizer_processor"),
)
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_BOUNDS = {
    NormalizationMode.MIN_MAX: ("min", "max"),
    NormalizationMode.QUANTILES: ("q01", "q99"),
    NormalizationMode.QUANTILE10: ("q10", "q90"),
}


@dataclass(frozen=True)
class Affine:
    """``normalised = (x - offset) / scale``, by dimension."""

    offset: Tensor
    scale: Tensor


def load_weights(net: nn.Module, name: str, folder: Path) -> None:
    """Load the weights that LeRobot saved under ``name``.

    Raises:
        ValueError: If they are missing, damaged or others.
    """
    path = folder / _WEIGHTS
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    holder = nn.ModuleDict({name: net})
    try:
        load_model(holder, path, strict=True)
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{path} does not fit or is damaged: {error}") from error


def saved_statistics(folder: Path, config: Any) -> dict[str, Affine]:
    """Affine maps by feature, of those that the policy's pipelines normalise.

    Raises:
        ValueError: If there is no such pipeline, or it does what is not done here.
    """
    before = _pipeline(folder, "policy_preprocessor")
    for step in before:
        if step["registry_name"] not in _KNOWN_STEPS:
            raise ValueError(
                f"{folder}: the preprocessor has a step {step['registry_name']!r}; known are "
                f"{', '.join(_KNOWN_STEPS)}"
            )
    found = _affine(folder, before, "normalizer_processor")
    after = _affine(folder, _pipeline(folder, "policy_postprocessor"), "unnormalizer_processor")
    known = {*config.input_features, *config.output_features}
    return {name: map_ for name, map_ in {**found, **after}.items() if name in known}


def usual_statistics(config: Any) -> dict[str, Affine]:
    """Of a new policy: images as of ImageNet where its kind wants that; all else as it is."""
    if config.normalization_mapping["VISUAL"] is not NormalizationMode.MEAN_STD:
        return {}
    mean, std = map(torch.tensor, _IMAGENET)
    return {key: Affine(mean, std) for key in config.image_features}


def _pipeline(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / f"{name}.json"
    if not path.is_file():
        raise ValueError(
            f"{path} is missing. LeRobot before 0.4 kept statistics elsewhere; convert the policy: "
            "python -m lerobot.processor.migrate_policy_normalization --pretrained-path ..."
        )
    steps: list[dict[str, Any]] = json.loads(path.read_text())["steps"]
    return steps


def _affine(folder: Path, steps: Sequence[Mapping[str, Any]], kind: str) -> dict[str, Affine]:
    found = {}
    for step in steps:
        if step["registry_name"] != kind or "state_file" not in step:
            continue
        tensors, settings = load_file(folder / step["state_file"]), step["config"]
        for name, feature in settings["features"].items():
            mode = NormalizationMode(settings["norm_map"].get(feature["type"], "IDENTITY"))
            numbers = {
                key.rpartition(".")[2]: tensor.flatten().float()
                for key, tensor in tensors.items()
                if key.rpartition(".")[0] == name
            }
            if mode is not NormalizationMode.IDENTITY and numbers:
                found[name] = _map(mode, numbers, settings["eps"])
    return found


def _map(mode: NormalizationMode, numbers: Mapping[str, Tensor], eps: float) -> Affine:
    if mode is NormalizationMode.MEAN_STD:
        return Affine(numbers["mean"], numbers["std"] + eps)
    low, high = (numbers[name] for name in _BOUNDS[mode])
    span = torch.where(high == low, torch.full_like(low, eps), high - low)
    return Affine(low + span / 2, span / 2)
