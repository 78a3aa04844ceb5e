"""From settings to a LeRobot policy: described, made, and taken apart by its kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_rl.policies._heads.config import Size
from vla_rl.policies._lerobot import act, description, diffusion, smolvla
from vla_rl.policies._lerobot.body import Body
from vla_rl.policies._lerobot.description import Description
from vla_rl.policies._lerobot.weights import (
    Affine,
    load_weights,
    saved_statistics,
    usual_statistics,
)
from vla_rl.types import Spaces

if TYPE_CHECKING:
    from vla_rl.policies._lerobot.config import Config

_MODULES: dict[str, Any] = {
    "act": act,
    "diffusion": diffusion,
    "smolvla": smolvla,
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
            folder = description.find(config.model)
        about = description.read(folder, config.options, spaces, config.adapt)
    else:
        size = config.vision_size or spaces.image_size
        about = description.fresh(config.kind, config.chunk, size, config.options, spaces)
    # Before anything is fetched: cameras are what fits least often.
    description.matched_views(about.config(), config.views, spaces)
    return smolvla.described(about) if about.kind == "smolvla" else about


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
        load_weights(net, module.SAVED_AS, folder)
    usual = about.config()
    head: Any = config.head_for(about.kind)
    size = Size(config.chunk, spaces.action_dim, 0, 0, config.hidden)
    if about.kind == "act":
        return act.ActBody(about, net, head, size)
    if about.kind == "smolvla":
        head = replace(head, denoising_steps=head.denoising_steps or usual.num_steps)
        return smolvla.SmolVLABody(about, net, head, size, views, spaces)
    steps = head.denoising_steps or min(
        usual.num_inference_steps or usual.num_train_timesteps, _MOST_USUAL_STEPS
    )
    chain = diffusion.Chain(steps, head.scored_steps, head.denoising_std)
    return diffusion.DiffusionBody(about, net, head, size, chain)


def statistics(config: Config, about: Description, folder: Path | None) -> dict[str, Affine]:
    """By what images, proprioception and actions are normalised, by LeRobot's names.

    Raises:
        ValueError: If the pretrained policy comes without them.
    """
    if folder is None or config.adapt:
        return usual_statistics(about.config())
    return saved_statistics(folder, about.config())
