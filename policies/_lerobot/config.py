"""Settings of LeRobot's policies."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, fields, replace
from typing import Annotated

import tyro

from vla_rl.plugins import unknown
from vla_rl.policies._context import text_encoders, token_learners
from vla_rl.policies._heads.config import USED_BY, HeadConfig

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
