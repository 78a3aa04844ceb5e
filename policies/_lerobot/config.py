"""Settings of LeRobot's policies."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from pydantic import Tag

from vla_rl.config import BY_NAME
from vla_rl.plugins import unknown
from vla_rl.policies._context import text_encoders, token_learners
from vla_rl.policies._heads.config import (
    FlowNoiseConfig,
    FlowSDEConfig,
    HeadConfig,
    LaplaceConfig,
    check_network,
)

KINDS = ("act", "diffusion", "smolvla")
_MOST_STD = 1.0


@dataclass(frozen=True)
class DDPMConfig(HeadConfig):
    """A Diffusion Policy's denoising, whose last steps get a likelihood."""

    name: Literal["ddpm"] = "ddpm"
    rho: float = 0.0  # the policy was trained with independent noise
    episode_share: float = 0.0
    denoising_steps: int = 0
    """Steps from noise to action; 0: as many as in the policy's own configuration, but at most
    10."""
    scored_steps: int = 10
    """How many of the last denoising steps count as what was decided, K'."""
    denoising_std: float = 0.1
    """Least standard deviation of a denoising step, in normalised actions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("denoising_steps", 0), ("scored_steps", 1)):
            check_least(f"head.{name}", vars(self)[name], least)
        if not 0 < self.denoising_std <= _MOST_STD:
            raise ValueError(
                f"head.denoising_std {self.denoising_std} is outside the allowed range "
                f"(0, {_MOST_STD}]"
            )


@dataclass(frozen=True)
class SmolVLASDEConfig(FlowSDEConfig):
    """Noise of a given size in SmolVLA's denoising; it was trained with independent noise."""

    rho: float = 0.0
    episode_share: float = 0.0
    noise_level: float = 0.5
    denoising_steps: int = 0
    """Steps from noise to action, 1 to 100; 0: as many as in the policy's own configuration."""

    def __post_init__(self) -> None:
        FlowSDEConfig(**vars(self) | {"denoising_steps": self.denoising_steps or 1})


@dataclass(frozen=True)
class SmolVLANoiseConfig(FlowNoiseConfig):
    """Noise of a learned size in SmolVLA's denoising; it was trained with independent noise."""

    rho: float = 0.0
    episode_share: float = 0.0
    noise_std: tuple[float, float] = (0.08, 0.16)
    denoising_steps: int = 0
    """Steps from noise to action, 1 to 100; 0: as many as in the policy's own configuration."""

    def __post_init__(self) -> None:
        FlowNoiseConfig(**vars(self) | {"denoising_steps": self.denoising_steps or 1})


LeRobotHead = Annotated[
    Annotated[LaplaceConfig, Tag("laplace")]
    | Annotated[DDPMConfig, Tag("ddpm")]
    | Annotated[SmolVLASDEConfig, Tag("flow_sde")]
    | Annotated[SmolVLANoiseConfig, Tag("flow_noise")],
    BY_NAME,
]
HEADS: dict[str, tuple[type[HeadConfig], ...]] = {
    "act": (LaplaceConfig,),
    "diffusion": (DDPMConfig,),
    "smolvla": (SmolVLASDEConfig, SmolVLANoiseConfig),
}
"""How the actions of each kind of policy can get a likelihood, the usual way first."""


def check_least(name: str, value: int, least: int) -> None:
    """Refuse a number below the least that is allowed."""
    if value < least:
        raise ValueError(f"{name} {value} is outside the allowed range {least}, {least + 1}, ...")


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
    head: LeRobotHead | None = None
    """How actions get a likelihood: `laplace` for ACT, `ddpm` for Diffusion Policy, `flow_sde` or
    `flow_noise` for SmolVLA; none: the first of these for the kind of policy."""
    text: str = "minilm"
    """Frozen text encoder for the critic: "minilm" or "hash" (hashed words, no weights)."""
    text_width: int = 32
    """Width of the critic's instruction embedding."""
    width: int = 128
    """Width of what the critic makes of a view."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of the critic, and of the networks of deviations."""
    pretrained: bool = True
    """Start from the weights of --net.model."""
    architecture: Annotated[str, tyro.conf.Suppress] = ""
    """Filled in: what the policy is, so that a saved one needs neither the hub nor a folder."""

    def __post_init__(self) -> None:
        if self.adapt and not self.model:
            raise ValueError("adapt gives a pretrained policy another robot: name it as model")
        check_least("vision_size", self.vision_size, 0)
        check_network(self.chunk, self.hidden)
        if self.text not in text_encoders.ENCODERS:
            raise ValueError(unknown("text encoder", self.text, text_encoders.ENCODERS))
        if self.text_width < 1:
            raise ValueError(f"text_width {self.text_width} is outside the allowed range 1, 2, ...")
        token_learners.check("project", 1, self.width)

    def head_for(self, kind: str) -> HeadConfig:
        """The settings of the head of a kind of policy.

        Raises:
            ValueError: If another kind's head is asked for.
        """
        if self.head is None:
            return HEADS[kind][0]()
        if not isinstance(self.head, HEADS[kind]):
            allowed = [known().name for known in HEADS[kind]]
            raise ValueError(unknown(f"head of {kind}", self.head.name, allowed))
        return self.head

    def check_kind(self, kind: str) -> None:
        """Refuse what this kind of policy cannot do.

        Raises:
            ValueError: With the setting.
        """
        self.head_for(kind)
        if self.adapt and kind != "smolvla":
            raise ValueError(
                f"adapt is for smolvla, which has room for another robot; {kind} has none: leave "
                "it out"
            )


def require_lerobot() -> None:
    """Refuse to go on without LeRobot; the error explains how to install it.

    Raises:
        ValueError: If it is not installed.
    """
    if importlib.util.find_spec("lerobot") is None:
        raise ValueError(
            "the network lerobot needs LeRobot: pip install 'vla-rl[lerobot]' (in an environment "
            "of its own if you use other versions of torch or transformers than it allows; for "
            "SmolVLA and Diffusion Policy its own extras besides)"
        )
