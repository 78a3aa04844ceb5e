"""LeRobot's policies: their configuration, weights and statistics, saved ones and new ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import draccus
import huggingface_hub
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig

from vla_rl.plugins import unknown
from vla_rl.types import Spaces

CONFIGS: dict[str, type[Any]] = {
    "act": ACTConfig,
    "diffusion": DiffusionConfig,
    "smolvla": SmolVLAConfig,
}
_IMAGES, _STATE, _ACTION = "observation.images", "observation.state", "action"
_FILES = ("config.json", "model.safetensors", "policy_preprocessor*", "policy_postprocessor*")
_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Description:
    """What a policy is; all that its network needs besides weights.

    Attributes:
        policy: LeRobot's configuration, as in its ``config.json``.
        backbone: Configuration of the vision-language model, where there is one.
        image_marks: Ids of the tokens around an image, where there are any.
    """

    policy: dict[str, Any]
    backbone: dict[str, Any] = field(default_factory=dict)
    image_marks: tuple[int, ...] = ()

    def to_json(self) -> str:
        """As text that :meth:`from_json` reads."""
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str) -> Description:
        """From text that :meth:`to_json` wrote."""
        found = json.loads(text)
        return cls(found["policy"], found["backbone"], tuple(found["image_marks"]))

    @property
    def kind(self) -> str:
        """``act``, ``diffusion`` or ``smolvla``."""
        return str(self.policy["type"])

    def without_sources(self) -> Description:
        """The same, but that no weights are fetched for a part of it."""
        return replace(self, policy={**self.policy, **_NO_SOURCES[self.kind]})

    @property
    def images(self) -> list[str]:
        """LeRobot's names of its cameras, in order."""
        features = self.policy["input_features"].items()
        return [name for name, known in features if known["type"] == FeatureType.VISUAL.value]

    def config(self) -> Any:
        """LeRobot's configuration object.

        Raises:
            ValueError: If LeRobot refuses it.
        """
        try:
            return draccus.decode(PreTrainedConfig, self.policy)
        except Exception as error:  # draccus wraps whatever a configuration raises
            raise ValueError(f"LeRobot refuses this {self.kind}: {error}") from error


# ---------------------------------------------------------------------------------- configuration


def find(source: str) -> Path:
    """The folder of a policy, fetched from the Hugging Face hub if it is not there.

    Raises:
        ValueError: If there is none.
    """
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(huggingface_hub.snapshot_download(source, allow_patterns=list(_FILES)))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{source!r} is neither a folder nor a policy that can be fetched from the Hugging "
            f"Face hub: {error}"
        ) from error


def read(folder: Path, options: Sequence[str], spaces: Spaces, adapt: bool) -> Description:
    """The description of a policy that LeRobot wrote.

    Args:
        folder: Where.
        options: Settings to change, ``name=value``.
        spaces: What it is needed for.
        adapt: Give it the cameras, proprioception and actions of ``spaces`` instead of its own.

    Raises:
        ValueError: If it is no such policy, of a kind that does not work here, or of other shapes.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing; is {folder} the folder of a LeRobot policy?")
    found = json.loads(path.read_text())
    if "class" in found and "spaces" in found:
        raise ValueError(
            f"{folder} holds a policy of vla-rl, not of LeRobot: name it with --policy"
        )
    check_kind(str(found.get("type", "")))
    _refuse(found, folder)
    if adapt:
        if found["type"] != "smolvla":
            raise ValueError(
                f"adapt: {found['type']} has no room for another robot; only smolvla, whose states "
                "and actions are padded, has"
            )
        found |= _features(spaces, spaces.image_size)
    description = Description(_changed({**found, **_HERE}, options))
    _check_shapes(description.config(), spaces)
    return description


def fresh(
    kind: str, chunk: int, image_size: int, options: Sequence[str], spaces: Spaces
) -> Description:
    """The description of a new policy, of LeRobot's default settings but for the shapes.

    Args:
        kind: ``act``, ``diffusion`` or ``smolvla``.
        chunk: Steps of a chunk.
        image_size: Height and width of its images.
        options: Settings to change, ``name=value``.
        spaces: What it is needed for.

    Raises:
        ValueError: If there is no such kind or setting.
    """
    check_kind(kind)
    usual = draccus.encode(CONFIGS[kind](device="cpu"))
    start = {"type": kind, **_HERE, **_features(spaces, image_size), "n_action_steps": chunk}
    if kind == "diffusion":
        # Its U-Net halves the horizon at every level.
        depth = len(_changed({**usual, "type": kind}, options)["down_dims"])
        start |= {"n_obs_steps": 1, "horizon": -(-chunk // 2**depth) * 2**depth}
    else:
        start["chunk_size"] = chunk
    return Description(_changed({**usual, **start}, options))


def check_kind(kind: str) -> None:
    """Refuse kinds of policies that do not work here, and name those that do.

    Raises:
        ValueError: If it is none of ``act``, ``diffusion`` and ``smolvla``.
    """
    if kind in ("pi0", "pi05", "pi0_fast"):
        advice = "use --network pi0 --net.model lerobot/pi0_base" if kind == "pi0" else "convert it"
        raise ValueError(
            f"LeRobot's own {kind} needs a changed build of transformers, so it is not supported; "
            f"{advice}: transformers has a pi0 of its own, which the network pi0 trains"
        )
    if kind not in CONFIGS:
        raise ValueError(unknown("kind of LeRobot policy", kind, CONFIGS))


_HERE = {"device": "cpu", "compile_model": False}  # moved later; compiled code cannot be copied
_NO_SOURCES: dict[str, dict[str, Any]] = {
    "act": {"pretrained_backbone_weights": None},
    "diffusion": {"pretrained_backbone_weights": None},
    "smolvla": {"load_vlm_weights": False},
}


def _refuse(found: Mapping[str, Any], folder: Path) -> None:
    for name in ("adapt_to_pi_aloha", "use_peft"):
        if found.get(name):
            raise ValueError(f"{folder}: {name} is not supported")
    for name, feature in found["input_features"].items():
        if name != _STATE and feature["type"] != FeatureType.VISUAL.value:
            raise ValueError(f"{folder} reads {name!r}, which no suite gives")


def _features(spaces: Spaces, image_size: int) -> dict[str, Any]:
    shape = [3, image_size, image_size]
    images = {
        f"{_IMAGES}.{view}": {"type": FeatureType.VISUAL.value, "shape": shape}
        for view in spaces.views
    }
    state = {"type": FeatureType.STATE.value, "shape": [spaces.state_dim]}
    action = {"type": FeatureType.ACTION.value, "shape": [spaces.action_dim]}
    return {"input_features": {**images, _STATE: state}, "output_features": {_ACTION: action}}


def _changed(config: dict[str, Any], options: Sequence[str]) -> dict[str, Any]:
    known = {f.name for f in fields(CONFIGS[config["type"]])}
    changed = {name: value for name, value in config.items() if name in known or name == "type"}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise ValueError(f"option {option!r} must look like name=value, as dim_model=256")
        if name not in known:
            raise ValueError(unknown("LeRobot setting", name, sorted(known)))
        try:
            changed[name] = json.loads(value)
        except json.JSONDecodeError:
            changed[name] = value  # a word, as resnet34
    return changed


def _check_shapes(config: Any, spaces: Spaces) -> None:
    state, action = config.robot_state_feature, config.action_feature
    for what, feature, wanted in (
        ("proprioception", state, spaces.state_dim),
        ("actions", action, spaces.action_dim),
    ):
        if feature is None and what == "proprioception":
            continue  # it acts on images alone
        if feature is None or tuple(feature.shape) != (wanted,):
            has = None if feature is None else tuple(feature.shape)
            raise ValueError(
                f"the policy's {what} have shape {has}, the suite's ({wanted},): it was trained "
                "for another robot"
            )


def matched_views(config: Any, wanted: Sequence[str], spaces: Spaces) -> tuple[str, ...]:
    """The suite's camera for each camera of the policy, in the policy's order.

    Args:
        config: LeRobot's.
        wanted: The user's choice; empty: by name, or else by order.
        spaces: The suite's.

    Raises:
        ValueError: If they do not fit, with the names of both.
    """
    keys = list(config.image_features)
    names = [key.rpartition(".")[2] for key in keys]
    if not spaces.views:
        raise ValueError(f"LeRobot's {config.type} needs images, but this suite has no cameras")
    both = f"the policy sees {', '.join(keys)}; the suite has {', '.join(spaces.views)}"
    for view in wanted:
        if view not in spaces.views:
            raise ValueError(f"{unknown('view', view, spaces.views)}; {both}")
    few_suffice = config.type == "smolvla"  # the others have weights or places for every one
    if wanted and (len(wanted) == len(names) or (few_suffice and len(wanted) < len(names))):
        return tuple(wanted)
    if not wanted and set(names) <= set(spaces.views):
        return tuple(names)
    if not wanted and len(names) == len(spaces.views):
        return spaces.views
    raise ValueError(f"{both}: say which of the suite's cameras each of them gets (--net.views)")
