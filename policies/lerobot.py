"""Policies of LeRobot: ACT, Diffusion Policy and SmolVLA, pretrained or new, with a likelihood.

They need ``pip install 'vla-rl[lerobot]'``; LeRobot is imported when a policy is made.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from vla_rl.plugins import unknown
from vla_rl.policies._backbones.backbone import Grid
from vla_rl.policies._context import text_encoders, token_learners
from vla_rl.policies._heads.config import USED_BY, HeadConfig
from vla_rl.policies._heads.mlp import mlp
from vla_rl.policies._pretrained import PretrainedPolicy
from vla_rl.types import Floats, Spaces

KINDS = ("act", "diffusion", "smolvla")
HEADS = {"act": ("laplace",), "diffusion": ("ddpm",), "smolvla": ("flow_sde", "flow_noise")}
# Settings that only some kinds have a use for. `std` is not among them: runs set it unasked.
_USED_BY = {
    "denoising_steps": ("diffusion", "smolvla"),
    "scored_steps": ("diffusion",),
    "denoising_std": ("diffusion",),
    "flow_noise_level": ("smolvla",),
    "flow_stochastic": ("smolvla",),
    "flow_noise_std": ("smolvla",),
    "adapt": ("smolvla",),
}
_MOST_STD = 1.0


@dataclass(frozen=True)
class Config:
    """Settings of a policy of LeRobot."""

    model: str = ""
    """A policy that LeRobot saved, by folder or hub name; none: a new one of --net.kind."""
    kind: str = "act"
    """Kind of a new policy: "act", "diffusion" or "smolvla"."""
    options: tuple[str, ...] = ()
    """Settings of LeRobot's own configuration to change, as dim_model=256 n_heads=4."""
    views: tuple[str, ...] = ()
    """The suite's camera for each camera of the policy, in the policy's order; none: by name, or
    else by order."""
    adapt: bool = False
    """Give pretrained weights the cameras, proprioception and actions of the suite instead of their
    own, as fine-tuning on another robot does; only SmolVLA has room for that."""
    chunk: int = 10
    """Low-level actions per decision, H: the first ones of the policy's chunk. A new policy's chunk
    is as long."""
    vision_size: int = 0
    """Height and width that a new ACT or Diffusion Policy scales images to; 0: as they are."""
    head: str = "auto"
    """How actions get a likelihood; "auto" is the first one. ACT: "laplace"; Diffusion Policy:
    "ddpm"; SmolVLA: "flow_sde" or "flow_noise"."""
    std: float = 0.07
    """Initial and least standard deviation of ACT's actions, in [-1, 1]; the others do not use it.
    """
    rho: float | None = None
    """Correlation of the exploration noise of neighbouring steps of a chunk, in [0, 1); none: 0.5
    for ACT, and 0 for those that denoise, which know no other noise."""
    episode_share: float | None = None
    """Part of the noise's variance that stays constant over an episode, in [0, 1); none: 0.2 for
    ACT, and 0 for those that denoise."""
    denoising_steps: int = 0
    """Steps from noise to action; 0: as many as the policy's own configuration says, or 10 if it
    says more."""
    scored_steps: int = 10
    """Diffusion Policy: how many of the last denoising steps count as what was decided, K'."""
    denoising_std: float = 0.1
    """Diffusion Policy: least standard deviation of a denoising step, in normalised actions."""
    flow_noise_level: float = 0.5
    """SmolVLA: size a of the noise of "flow_sde", in (0, 1]."""
    flow_stochastic: str = "all"
    """SmolVLA: which denoising steps of "flow_sde" are random: "all", or "one" of them."""
    flow_noise_std: tuple[float, float] = (0.08, 0.16)
    """SmolVLA: least and largest standard deviation that "flow_noise" may add in a step."""
    text: str = "minilm"
    """Frozen text encoder for the critic: "minilm" or "hash" (hashed words, no weights)."""
    text_width: int = 32
    """Width of the critic's instruction embedding."""
    width: int = 128
    """Width of what the critic makes of a view."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of the critic, and of the networks that say deviations."""
    pretrained: bool = True
    """Start from the weights of --net.model."""
    architecture: Annotated[str, tyro.conf.Suppress] = ""
    """Filled in: what the policy is, so that a saved one needs neither the hub nor a folder."""

    def __post_init__(self) -> None:
        if self.head not in ("auto", *(head for heads in HEADS.values() for head in heads)):
            choices = ["auto", *(head for heads in HEADS.values() for head in heads)]
            raise ValueError(unknown("head", self.head, choices))
        if self.adapt and not self.model:
            raise ValueError("adapt gives a pretrained policy another robot: name it as model")
        for name, least in (("denoising_steps", 0), ("scored_steps", 1), ("vision_size", 0)):
            if vars(self)[name] < least:
                raise ValueError(
                    f"{name} {vars(self)[name]} is outside the allowed range {least}, {least + 1}, "
                    "..."
                )
        if not 0 < self.denoising_std <= _MOST_STD:
            raise ValueError(
                f"denoising_std {self.denoising_std} is outside the allowed range (0, {_MOST_STD}]"
            )
        if self.text not in text_encoders.ENCODERS:
            raise ValueError(unknown("text encoder", self.text, text_encoders.ENCODERS))
        if self.text_width < 1:
            raise ValueError(f"text_width {self.text_width} is outside the allowed range 1, 2, ...")
        token_learners.check("project", 1, self.width)
        self.head_config(KINDS[0], steps=1)

    def head_config(self, kind: str, steps: int) -> HeadConfig:
        """What these settings share with those of other heads, for a policy of S steps.

        Raises:
            ValueError: If one is outside its range.
        """
        denoises = kind != "act"
        head = self.head if self.head != "auto" else HEADS[kind][0]
        is_flow = head.startswith("flow")
        made = HeadConfig(
            head=head if is_flow else "laplace",
            chunk=self.chunk,
            std=self.std,
            rho=(0.0 if denoises else 0.5) if self.rho is None else self.rho,
            episode_share=(
                (0.0 if denoises else 0.2) if self.episode_share is None else self.episode_share
            ),
            hidden=self.hidden,
        )
        # The other settings are out of use, and need not be in the range of a flow's.
        if is_flow:
            shared = vars(self) | {"denoising_steps": steps}
            used = [name for name, heads in USED_BY.items() if head in heads]
            made = replace(made, **{name: shared[name] for name in used})
        return made

    def check_kind(self, kind: str) -> None:
        """Refuse what this kind of policy has no use for: a setting must do something.

        Raises:
            ValueError: With the setting and the kinds that use it.
        """
        if self.head not in ("auto", *HEADS[kind]):
            raise ValueError(unknown(f"head of {kind}", self.head, ("auto", *HEADS[kind])))
        for setting in fields(self):
            kinds, value = _USED_BY.get(setting.name, KINDS), vars(self)[setting.name]
            if kind not in kinds and value != setting.default:
                raise ValueError(
                    f"{setting.name} {value!r} is a setting of {' and '.join(kinds)}; {kind} does "
                    "not use it: leave it out"
                )


class Critic(nn.Module):
    """Views, the instruction and proprioception to a value; a network of its own."""

    def __init__(self, config: Config, grid: Grid, state_dim: int) -> None:
        super().__init__()
        self.grid = grid
        self.adapter = nn.Linear(text_encoders.width(config.text), config.text_width)
        self.learner = token_learners.make("project", grid, config.text_width, 1, config.width)
        inputs = self.learner.outputs + config.text_width + state_dim
        self.value = mlp(inputs, config.hidden, 1, gain=0.0)

    def forward(self, features: Tensor, text: Tensor, state: Tensor) -> Tensor:
        """``[B, F]``, ``[B, E]``, ``[B, S]`` to ``[B]``."""
        grid = features.view(len(features), *self.grid)
        words = torch.tanh(self.adapter(text))
        seen = self.learner(F.layer_norm(grid, grid.shape[-1:]), words)
        value: Tensor = self.value(torch.cat([seen, words, state], dim=1))
        return value[:, 0]


class Policy(PretrainedPolicy):
    """What looks ("vlm"), what acts ("head"), and a "critic" of its own.

    ACT and Diffusion Policy read no words, so they can do one task only; the critic reads them.
    SmolVLA's own configuration says what of it is trained (``train_expert_only``, by default true:
    SmolVLM, the group "vlm", then has nothing to train, and what it makes of images is kept).

    A pretrained policy keeps the statistics that it was trained with: images, proprioception and
    actions are normalised by them, and its actions are those of the suite, clipped to [-1, 1]. A
    new one takes those of proprioception from demonstrations. Proprioception is clipped at 5
    deviations, which LeRobot does not do. Nothing is remembered between decisions: a policy that
    reads several observations gets the present one as often, and ACT's temporal ensembling is not
    used.
    """

    config_class = Config
    image_mean: Tensor  # [V, 3, 1, 1]
    image_std: Tensor

    def __init__(self, config: Config, spaces: Spaces) -> None:
        """Make the network.

        Raises:
            ValueError: If LeRobot is not installed, there is no such policy, or it does not fit.
        """
        require_lerobot()
        # Half a minute on a slow machine, for those who use it.
        from vla_rl.policies._lerobot import description, make

        folder = description.find(config.model) if config.model and config.pretrained else None
        about = make.describe(config, spaces, folder)
        if not config.architecture:  # else it was checked when it was new, by other defaults
            config.check_kind(about.kind)
        super().__init__(replace(config, architecture=about.to_json()), spaces)
        self.views = description.matched_views(about.config(), config.views, spaces)
        self.body = make.body(config, about, spaces, len(self.views), folder)
        self.critic = Critic(config, self.body.grid, spaces.state_dim)
        self._learns = frozenset(n for n, p in self.body.named_parameters() if p.requires_grad)
        shape = (len(self.views), 3, 1, 1)
        self.register_buffer("image_mean", torch.zeros(shape))
        self.register_buffer("image_std", torch.ones(shape))
        self._normalise(make.statistics(config, about, folder), list(about.images))
        self.train(False)

    @property
    def head(self) -> Any:  # type: ignore[override]  # it belongs to the body
        """The action head."""
        return self.body.head

    def fit_statistics(self, states: Floats) -> None:
        """Normalise proprioception by ``[n, S]`` states, unless the policy has its own statistics.

        Raises:
            ValueError: If the states have another shape.
        """
        mean, std = self.state_mean.clone(), self.state_std.clone()
        super().fit_statistics(states)
        if self.config.model and not self.config.adapt:
            self.state_mean.copy_(mean)
            self.state_std.copy_(std)

    def see(self, images: Tensor, text: Tensor) -> Tensor:
        """What looks makes of the images, flattened to ``[B, F]``."""
        seen: Tensor = self.body.look(self._pictures(images))
        return seen.flatten(1)

    @property
    def keeps(self) -> bool:
        """Whether what looks is frozen, or never trained."""
        return super().keeps or self.body.looks_frozen

    def context(self, features: Tensor, text: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """All that the head reads ``[B, D]``; it needs no words besides."""
        return self.body.context(features, text[:, : self.body.prompt], state), text[:, :0]

    def judge(self, features: Tensor, text: Tensor, state: Tensor) -> Tensor:
        """The critic's value ``[B]``."""
        value: Tensor = self.critic(features, text[:, self.body.prompt :], state)
        return value

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by group."""
        looks = {id(p) for p in self.body.backbone()}
        body = [p for name, p in self.body.named_parameters() if name in self._learns]
        return {
            "vlm": [p for p in body if id(p) in looks],
            "head": [p for p in body if id(p) not in looks],
            "critic": list(self.critic.parameters()),
        }

    def encode_text(self, sentences: Sequence[str]) -> Floats:
        """Prompts of the policy, then features of the critic's text encoder."""
        prompts = self.body.encode(sentences)
        return np.concatenate([prompts, text_encoders.encode(self.config.text, sentences)], axis=1)

    def save_extras(self, folder: Path) -> None:
        """What the policy needs to read new instructions."""
        self.body.save_reader(folder)

    def load_extras(self, folder: Path) -> None:
        """What the policy needs to read new instructions."""
        self.body.load_reader(folder)

    def _pictures(self, images: Tensor) -> Tensor:
        """``[B, V, h, w, 3]`` uint8 of the suite to normalised ones of the policy's cameras."""
        chosen = images[:, [self.spaces.views.index(view) for view in self.views]]
        pixels = chosen.permute(0, 1, 4, 2, 3).float() / 255
        size = self.body.image_size
        if size is not None and tuple(pixels.shape[-2:]) != tuple(size):
            flat = pixels.flatten(0, 1)
            flat = F.interpolate(flat, size, mode="bilinear", antialias=True, align_corners=False)
            pixels = flat.view(*pixels.shape[:3], *size)
        return (pixels - self.image_mean) / self.image_std

    def _normalise(self, found: Any, images: Sequence[str]) -> None:
        for row, key in enumerate(images[: len(self.views)]):
            if key in found:
                self.image_mean[row] = found[key].offset.view(3, 1, 1)
                self.image_std[row] = found[key].scale.view(3, 1, 1)
        if "observation.state" in found:
            self.state_mean.copy_(found["observation.state"].offset)
            self.state_std.copy_(found["observation.state"].scale)
        if "action" in found:
            self.head.actions.offset.copy_(found["action"].offset)
            self.head.actions.scale.copy_(found["action"].scale)


def require_lerobot() -> None:
    """Refuse to go on without LeRobot, and say how to get it.

    Raises:
        ValueError: If it is not installed.
    """
    if importlib.util.find_spec("lerobot") is None:
        raise ValueError(
            "the network lerobot needs LeRobot: pip install 'vla-rl[lerobot]' (in an environment "
            "of its own if you use other versions of torch or transformers than it allows; for "
            "SmolVLA and Diffusion Policy its own extras besides)"
        )
