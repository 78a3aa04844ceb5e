"""Settings of the action heads: what all have, and what each kind adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from pydantic import Tag

from vla_rl.action_head import DENSITIES
from vla_rl.config import BY_NAME
from vla_rl.plugins import unknown

AUTO = "auto"
STOCHASTIC = ("all", "one")
STD_RANGE = (0.01, 1.0)
MOST_STEPS = 100


class Size(NamedTuple):
    """What a head is made for.

    Attributes:
        horizon: H, low-level actions per decision.
        action_dim: A.
        context_dim: D, width of the context.
        text_dim: E, width of the instruction's embedding.
        hidden: Widths of the hidden layers.
    """

    horizon: int
    action_dim: int
    context_dim: int
    text_dim: int = 0
    hidden: tuple[int, ...] = (256, 256)


@dataclass(frozen=True)
class HeadConfig:
    """Settings that every head with correlated exploration noise has."""

    name: str = ""
    """Kind of the action head."""
    rho: float = 0.5
    """Correlation of the exploration noise of neighbouring steps of a chunk, in [0, 1)."""
    episode_share: float = 0.2
    """Part of the noise's variance that stays constant over an episode, in [0, 1)."""
    density: str = AUTO
    """How log-probabilities treat correlated noise: "marginal" scores every unit by itself (a
    natural-gradient step in the means; right for ratios per token or action and baselines of a
    group), "chunk" is the joint density of a chunk, "decision" that of a chunk whose noise is drawn
    anew (the policy then acts as with an episode share of 0), "episode" that of all decisions given
    what is constant over the episode. "auto": the first of these that suits the algorithm."""

    def __post_init__(self) -> None:
        for name in ("rho", "episode_share"):
            if not 0 <= vars(self)[name] < 1:
                raise ValueError(
                    f"head.{name} {vars(self)[name]} is outside the allowed range [0, 1)"
                )
        if self.density not in (AUTO, *DENSITIES):
            raise ValueError(unknown("density", self.density, (AUTO, *DENSITIES)))


def check_std(name: str, std: float) -> None:
    """Refuse a standard deviation outside of its range."""
    if not STD_RANGE[0] <= std <= STD_RANGE[1]:
        raise ValueError(
            f"head.{name} {std} is outside the allowed range [{STD_RANGE[0]}, {STD_RANGE[1]}]"
        )


@dataclass(frozen=True)
class GaussianConfig(HeadConfig):
    """A Gaussian over the actions of a chunk, its mean fitted by squared errors."""

    name: Literal["gaussian"] = "gaussian"
    std: float = 0.07
    """Initial standard deviation of every action dimension; actions live in [-1, 1]."""
    std_by_instruction: bool = False
    """Let the deviation depend on the instruction (from no dependence at first)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_std("std", self.std)


@dataclass(frozen=True)
class LaplaceConfig(HeadConfig):
    """A Laplace distribution, its mean fitted by absolute errors and its scale by likelihood."""

    name: Literal["laplace"] = "laplace"
    std: float = 0.07
    """Initial and least standard deviation of every action dimension; actions live in [-1, 1]. It
    may rise to 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_std("std", self.std)


@dataclass(frozen=True)
class FlowConfig(HeadConfig):
    """What the heads that denoise a chunk have in common."""

    denoising_steps: int = 4
    """Steps from noise to action, 1 to 100."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.denoising_steps <= MOST_STEPS:
            raise ValueError(
                f"head.denoising_steps {self.denoising_steps} is outside the allowed range 1 to "
                f"{MOST_STEPS}"
            )


@dataclass(frozen=True)
class FlowSDEConfig(FlowConfig):
    """Flow matching with noise of a given size in the denoising."""

    name: Literal["flow_sde"] = "flow_sde"
    noise_level: float = 0.2
    """Size a of the noise, in (0, 1]: the first step adds noise of deviation a, the last one about
    a / denoising_steps. It is not trained."""
    stochastic: str = "all"
    """Which denoising steps are random: "all", or "one" of them, drawn anew for every decision (the
    update then needs a single pass of the network)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.noise_level <= 1:
            raise ValueError(
                f"head.noise_level {self.noise_level} is outside the allowed range (0, 1]"
            )
        if self.stochastic not in STOCHASTIC:
            raise ValueError(unknown("head.stochastic", self.stochastic, STOCHASTIC))


@dataclass(frozen=True)
class FlowNoiseConfig(FlowConfig):
    """Flow matching with noise of a learned size in the denoising."""

    name: Literal["flow_noise"] = "flow_noise"
    noise_std: tuple[float, float] = (0.04, 0.08)
    """Least and largest standard deviation of a denoising step's noise, in [0.01, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        least, most = self.noise_std
        if not STD_RANGE[0] <= least < most <= STD_RANGE[1]:
            raise ValueError(
                f"head.noise_std {self.noise_std} must be two rising numbers in the allowed range "
                f"[{STD_RANGE[0]}, {STD_RANGE[1]}]"
            )


Head = Annotated[
    Annotated[GaussianConfig, Tag("gaussian")]
    | Annotated[LaplaceConfig, Tag("laplace")]
    | Annotated[FlowSDEConfig, Tag("flow_sde")]
    | Annotated[FlowNoiseConfig, Tag("flow_noise")],
    BY_NAME,
]
"""Settings of any of the heads that a policy with fresh weights may have."""


def check_network(chunk: int, hidden: tuple[int, ...]) -> None:
    """Refuse a length of chunks, or widths of layers, that there cannot be.

    Raises:
        ValueError: With the value and the allowed range.
    """
    if chunk < 1:
        raise ValueError(f"chunk {chunk} is outside the allowed range 1, 2, ...")
    if any(width < 1 for width in hidden):
        raise ValueError(f"hidden {hidden} has a width outside the allowed range 1, 2, ...")
