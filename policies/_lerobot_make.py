"""From settings to a LeRobot policy: described, made, and taken apart by its kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_rl.policies import _lerobot_act, _lerobot_diffusion, _lerobot_model, _lerobot_smolvla
from vla_rl.policies._lerobot_body import Body
from vla_rl.policies._lerobot_model import Affine, Description
from vla_rl.types import Spaces

if TYPE_CHECKING:
    from vla_rl.policies.lerobot import Config

_MODULES: dict[str, Any] = {
    "act": _lerobot_act,
    "diffusion": _lerobot_diffusion,
    "smolvla": _lerobot_smolvla,
}
_MOST_USUAL_STEPS = 10  # every step is a pass of the network, in updates too


def describe(config: Config, spaces: Spaces, folder: Path | None) -> Description:
    """What the policy is: as it was saved here, as LeRobot saved it in ``folder``, or a new one.

    Raises:
        ValueError: If it does not exist, does not fit, or is of a kind that does not work here.
    """
    if config.architecture:
        return Description.from_json(config.architecture)
    if config.model:
        if folder is None:
            folder = _lerobot_model.find(config.model)
        about = _lerobot_model.read(folder, config.options, spaces, config.adapt)
    else:
        size = config.vision_size or spaces.image_size
        about = _lerobot_model.fresh(config.kind, config.chunk, size, config.options, spaces)
    # Before anything is fetched: cameras are what fits least often.
    _lerobot_model.matched_views(about.config(), config.views, spaces)
    return _lerobot_smolvla.described(about) if about.kind == "smolvla" else about


def body(
    config: Config, about: Description, spaces: Spaces, views: int, folder: Path | None
) -> Body:
    """The policy's network, taken apart; with the weights in ``folder`` if there is one.

    Raises:
        ValueError: If weights are missing or damaged, or the settings do not fit the policy.
    """
    module = _MODULES[about.kind]
    will_be_replaced = folder is not None or not config.pretrained
    net = module.network(about.without_sources() if will_be_replaced else about)
    if folder is not None:
        _lerobot_model.load_weights(net, module.SAVED_AS, folder)
    usual = about.config()
    if about.kind == "act":
        return _lerobot_act.ActBody(about, net, config.head_config("act", 1), spaces)
    if about.kind == "smolvla":
        settings = config.head_config("smolvla", config.denoising_steps or usual.num_steps)
        return _lerobot_smolvla.SmolVLABody(about, net, settings, views, spaces)
    steps = config.denoising_steps or min(
        usual.num_inference_steps or usual.num_train_timesteps, _MOST_USUAL_STEPS
    )
    return _lerobot_diffusion.DiffusionBody(
        about,
        net,
        config.head_config("diffusion", 1),
        spaces,
        _lerobot_diffusion.Chain(steps, config.scored_steps, config.denoising_std),
    )


def statistics(config: Config, about: Description, folder: Path | None) -> dict[str, Affine]:
    """By what images, proprioception and actions are normalised, by LeRobot's names.

    Raises:
        ValueError: If the pretrained policy comes without them.
    """
    if folder is None or config.adapt:
        return _lerobot_model.usual_statistics(about.config())
    return _lerobot_model.statistics(folder, about.config())
