"""Settings of the action heads, and which of them each head has a use for."""

from __future__ import annotations

from dataclasses import dataclass, fields

from vla_rl.action_head import DENSITIES
from vla_rl.plugins import unknown

NAMES = ("gaussian", "laplace", "flow_sde", "flow_noise")
AUTO = "auto"
STOCHASTIC = ("all", "one")
STD_RANGE = (0.01, 1.0)
NOISE_LEVELS = (0.0, 1.0)
MOST_STEPS = 100

# Settings that only some heads have a use for. `std` is not among them: runs set it unasked.
USED_BY = {
    "std_by_instruction": ("gaussian",),
    "denoising_steps": ("flow_sde", "flow_noise"),
    "flow_noise_level": ("flow_sde",),
    "flow_stochastic": ("flow_sde",),
    "flow_noise_std": ("flow_noise",),
}


@dataclass(frozen=True)
class HeadConfig:
    """Settings of the action head; the base class of a policy's ``Config``."""

    head: str = "gaussian"
    """Action head: "gaussian", "laplace", or flow matching: "flow_sde" (noise of a given size in
    the denoising) or "flow_noise" (noise of a learned size)."""
    chunk: int = 10
    """Low-level actions per decision, H."""
    std: float = 0.07
    """Initial standard deviation of every action dimension; actions live in [-1, 1]. That of a
    Laplace head never falls below it, in cloning or later, and may rise to 1. The flow heads do not
    use it."""
    std_by_instruction: bool = False
    """Let a Gaussian's deviation depend on the instruction (from no dependence at first)."""
    rho: float = 0.5
    """Correlation of the exploration noise of neighbouring steps of a chunk, in [0, 1)."""
    episode_share: float = 0.2
    """Part of the noise's variance that stays constant over an episode, in [0, 1)."""
    density: str = "auto"
    """What log-probabilities know of correlated noise: "marginal" scores every unit by itself (a
    natural-gradient step in the means; right for ratios per token or action and baselines of a
    group), "chunk" is the joint density of a chunk, "decision" that of a chunk whose noise is drawn
    anew (the policy then acts as with an episode share of 0), "episode" that of all decisions given
    what is constant over the episode. "auto": the first of these that suits the algorithm."""
    denoising_steps: int = 4
    """Steps of a flow head from noise to action, 1 to 100."""
    flow_noise_level: float = 0.2
    """Size a of the noise of "flow_sde", in (0, 1]: the first step adds noise of deviation a, the
    last one about a / denoising_steps. It is not trained."""
    flow_stochastic: str = "all"
    """Which denoising steps of "flow_sde" are random: "all", or "one" of them, drawn anew for every
    decision (the update then needs a single pass of the network)."""
    flow_noise_std: tuple[float, float] = (0.04, 0.08)
    """Least and largest standard deviation that "flow_noise" may add in a denoising step, in
    [0.01, 1]."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of the actor and of the critic."""

    def __post_init__(self) -> None:
        if self.head not in NAMES:
            raise ValueError(unknown("head", self.head, NAMES))
        if self.chunk < 1:
            raise ValueError(f"chunk {self.chunk} is outside the allowed range 1, 2, ...")
        if not STD_RANGE[0] <= self.std <= STD_RANGE[1]:
            raise ValueError(
                f"std {self.std} is outside the allowed range [{STD_RANGE[0]}, {STD_RANGE[1]}]"
            )
        for name, value in (("rho", self.rho), ("episode_share", self.episode_share)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} {value} is outside the allowed range [0, 1)")
        if self.density not in (AUTO, *DENSITIES):
            raise ValueError(unknown("density", self.density, (AUTO, *DENSITIES)))
        if any(width < 1 for width in self.hidden):
            raise ValueError(
                f"hidden {self.hidden} has a width outside the allowed range 1, 2, ..."
            )
        self._check_flow()

    def _check_flow(self) -> None:
        if not 1 <= self.denoising_steps <= MOST_STEPS:
            raise ValueError(
                f"denoising_steps {self.denoising_steps} is outside the allowed range 1 to "
                f"{MOST_STEPS}"
            )
        if not NOISE_LEVELS[0] < self.flow_noise_level <= NOISE_LEVELS[1]:
            raise ValueError(
                f"flow_noise_level {self.flow_noise_level} is outside the allowed range "
                f"({NOISE_LEVELS[0]}, {NOISE_LEVELS[1]}]"
            )
        if self.flow_stochastic not in STOCHASTIC:
            raise ValueError(unknown("flow_stochastic", self.flow_stochastic, STOCHASTIC))
        least, most = self.flow_noise_std
        if not STD_RANGE[0] <= least < most <= STD_RANGE[1]:
            raise ValueError(
                f"flow_noise_std {self.flow_noise_std} must be two rising numbers in the allowed "
                f"range [{STD_RANGE[0]}, {STD_RANGE[1]}]"
            )

    def check_use(self) -> None:
        """Refuse a changed setting of another head than the chosen one.

        Not part of making a config: settings that a saved policy never used may have other defaults
        by now.

        Raises:
            ValueError: With the setting and the heads that use it.
        """
        for setting in fields(self):
            heads = USED_BY.get(setting.name, NAMES)
            value = vars(self)[setting.name]
            if self.head not in heads and value != setting.default:
                raise ValueError(
                    f"{setting.name} {value!r} is a setting of {' and '.join(heads)}; head "
                    f"{self.head!r} does not use it: leave it out, or choose another head"
                )
