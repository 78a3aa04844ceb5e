"""Settings of policies as they were written before heads and backbones had settings of their own.

All stood side by side. What the chosen head and backbone do not have was of no use, and is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from vla_rl.config import from_json, kinds, to_json

RENAMED = {
    "vision_size": "size",
    "flow_noise_level": "noise_level",
    "flow_stochastic": "stochastic",
    "flow_noise_std": "noise_std",
    "vlm_prompt": "prompt",
    "vlm_words": "words",
    "vlm_tokens": "tokens",
    "vlm_trains": "trains",
}


def regrouped(config: Mapping[str, Any], settings: type[Any]) -> dict[str, Any]:
    """Flat settings in the parts of today.

    Args:
        config: As they were written; ``head`` and ``vision`` name the head and the backbone.
        settings: The dataclass that has ``head`` or ``backbone``, or both, today.
    """
    own = {field.name for field in fields(settings)}
    made = {name: value for name, value in config.items() if name in own}
    for part, old in (("head", "head"), ("backbone", "vision")):
        if part in own and old in config:
            made[part] = _part(config, get_type_hints(settings, include_extras=True)[part], old)
    complete: dict[str, Any] = to_json(from_json(settings, made))
    return complete


def _part(config: Mapping[str, Any], hint: Any, old: str) -> dict[str, Any]:
    name = config[old]
    kind = kinds(hint)[name.partition(":")[0]]
    layers = "layers" if name.startswith("vlm:") else "layer"
    renamed = RENAMED | {"vision_layer": layers}
    own = {field.name for field in fields(kind)}
    # `tokens` was a setting of the token learner.
    found = {renamed.get(key, key): value for key, value in config.items() if key != "tokens"}
    return {key: value for key, value in found.items() if key in own} | {"name": name}
