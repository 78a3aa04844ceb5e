"""The policy contract, and a base class that implements most of it.

A policy has a backbone, which turns images into features, an action head, which turns features, the
instruction and proprioception into a chunk of actions, and a critic. Its parameters form
the three groups ``"vlm"``, ``"head"`` and ``"critic"``. The features of a frozen backbone, or of
the frozen part of one, are computed once, when acting, and reused by every update.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from vla_rl import plugins
from vla_rl.action_head import ActionHead, Exactness, Sample
from vla_rl.storage import hub, pretrained
from vla_rl.storage.saved_policy import SavedPolicy
from vla_rl.types import ActionChunk, Array, Floats, Observation, Spaces

__all__ = [
    "GROUPS",
    "ActionHead",
    "Exactness",
    "Policy",
    "PolicyBase",
    "Sample",
    "Scores",
    "load_policy",
]

GROUPS = ("vlm", "head", "critic")
_STD_FLOOR = 0.01  # do not magnify a coordinate that hardly varied in the demonstrations
_STATE_RANGE = 5.0  # standard deviations; a few demonstrations do not bound later states


@dataclass(frozen=True)
class Scores:
    """A policy's scores of past decisions, with gradient.

    Attributes:
        logprob: ``[B, K]`` log-probability of every unit, in nats.
        entropy: ``[B, K]`` entropy of every unit, in nats.
        value: ``[B]`` critic estimate.
    """

    logprob: Tensor
    entropy: Tensor
    value: Tensor


class Policy(Protocol):
    """What a module in ``policies/`` must define as ``Policy``; also a ``torch.nn.Module``.

    ``logprob`` of :meth:`act` equals that of :meth:`evaluate` for the same weights, up to float32
    rounding. The noise of a row depends on its key alone.
    """

    config: Any
    spaces: Spaces
    chunk: int
    text_memory: dict[str, Floats]
    frozen: frozenset[str]

    @property
    def units(self) -> int:
        """Log-prob units of one decision, K."""

    @property
    def caches(self) -> bool:
        """Whether acting caches features, which updates then use instead of the images."""

    @property
    def density(self) -> str:
        """The density of the log-probabilities; see :mod:`vla_rl.action_head`."""

    @property
    def densities(self) -> tuple[str, ...]:
        """The supported densities, simplest first."""

    def use_density(self, name: str) -> None:
        """Act and score with another density from now on."""

    def exactness(self, density: str | None = None) -> Exactness:
        """What the log-probabilities of a density (None: the current one) may be used for."""

    def deviations(self) -> list[nn.Parameter]:
        """Parameters of the group "head" that only set the size of the exploration noise."""

    def deviation(self) -> Floats | None:
        """Mean exploration standard deviation of each action dimension, ``[A]``, if fixed."""

    def clamped_share(self, states: Floats) -> float:
        """Share of ``[n, S]`` states with a coordinate that the normalisation clamps."""

    def set_statistics(self, mean: NDArray[np.float64], std: NDArray[np.float64]) -> None:
        """Normalise proprioception by a mean and a standard deviation, both ``[S]``."""

    @classmethod
    def blank(cls, config: Any, spaces: Spaces) -> Policy:
        """A policy whose weights will be overwritten, so no pretrained ones are fetched."""

    def remember(self, instructions: Sequence[str]) -> None:
        """Encode and store new instructions; other methods accept only stored ones."""

    def fit_statistics(self, states: Floats) -> None:
        """Normalise proprioception by the mean and standard deviation of ``[n, S]`` states."""

    def freeze(self, groups: Collection[str]) -> None:
        """Train everything except these groups."""

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Disjoint trainable parameters by group."""

    def act(
        self, obs: Observation, instructions: Sequence[str], keys: NDArray[np.int64] | None
    ) -> ActionChunk:
        """Choose B chunks; ``keys`` ``[B, 2]`` seed the noise, ``None`` acts greedily."""

    def evaluate(
        self, obs: Observation, instructions: Sequence[str], raw: Floats, features: Array
    ) -> Scores:
        """Score B decisions, from ``features`` instead of images if the policy caches them.

        A frozen critic is not evaluated; its values are zero.
        """

    def imitation_loss(
        self,
        obs: Observation,
        instructions: Sequence[str],
        actions: Floats,
        mask: NDArray[np.bool_],
        features: Array | None = None,
        generator: Generator | None = None,
    ) -> Tensor:
        """Scalar loss of imitating ``actions`` ``[B, H, A]`` where ``mask`` ``[B, H]`` is true.

        ``generator`` (on the CPU) draws the noise that some heads need for it; None uses torch's
        global generator.
        """

    def features(self, obs: Observation, instructions: Sequence[str]) -> Array:
        """The features that acting would cache, ``[B, F]``; only if the policy caches any."""

    def save_pretrained(self, folder: Path) -> None:
        """Write weights, settings and stored instructions."""

    def load_state_dict(self, state: Mapping[str, Any]) -> object:
        """Load weights, as any ``torch.nn.Module``."""

    def state_dict(self) -> dict[str, Any]:
        """Parameters and buffers by name, as of any ``torch.nn.Module``."""


PolicyT = TypeVar("PolicyT", bound="PolicyBase")


class PolicyBase(SavedPolicy):
    """A policy made of a backbone, an action head and a critic.

    Subclasses set ``config_class`` and ``head`` and implement :meth:`encode_images`,
    :meth:`context`, :meth:`estimate_value`, :meth:`groups` and :meth:`encode_text`. A config
    needs a field ``chunk``.
    """

    head: Any  # an ActionHead; nn.Module attributes cannot be typed by a protocol
    state_mean: Tensor
    state_std: Tensor

    def __init__(self, config: Any, spaces: Spaces) -> None:
        super().__init__()
        self.config = config
        self.spaces = spaces
        self.chunk: int = config.chunk
        self.text_memory: dict[str, Floats] = {}
        self.frozen: frozenset[str] = frozenset()
        self.register_buffer("state_mean", torch.zeros(spaces.state_dim))
        self.register_buffer("state_std", torch.ones(spaces.state_dim))

    # ------------------------------------------------------------------ what a subclass defines

    @abstractmethod
    def encode_images(self, images: Tensor, text: Tensor) -> Tensor:
        """Features ``[B, F]`` from ``[B, V, h, w, 3]`` uint8 images and texts ``[B, E]``."""

    @abstractmethod
    def context(self, features: Tensor, text: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The head's two inputs: context ``[B, D]`` and instruction features ``[B, E]``."""

    @abstractmethod
    def estimate_value(self, features: Tensor, text: Tensor, state: Tensor) -> Tensor:
        """The critic's value ``[B]`` from detached features."""

    @abstractmethod
    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Disjoint trainable parameters by the names in ``GROUPS``."""

    @abstractmethod
    def encode_text(self, sentences: Sequence[str]) -> Floats:
        """Features ``[n, E]`` of sentences, each a function of its own sentence only."""

    # ------------------------------------- what a subclass with a frozen part may define besides

    @property
    def caches(self) -> bool:
        """Whether acting caches features, which updates then use instead of the images."""
        return "vlm" in self.frozen

    def cache_features(self, images: Tensor, text: Tensor) -> Tensor:
        """Features ``[B, F]`` of the frozen part of the backbone; here of the whole backbone."""
        return self.encode_images(images, text)

    def from_cache(self, kept: Tensor, text: Tensor) -> Tensor:
        """Turn cached features into the result of :meth:`encode_images`, with gradient."""
        return kept

    # ------------------------------------------------------------------------------- the contract

    @property
    def units(self) -> int:
        """Log-prob units of one decision, K."""
        units: int = self.head.units
        return units

    @property
    def density(self) -> str:
        """The density of the log-probabilities; see :mod:`vla_rl.action_head`."""
        density: str = self.head.density
        return density

    @property
    def densities(self) -> tuple[str, ...]:
        """The supported densities, simplest first."""
        found: tuple[str, ...] = self.head.densities
        return found

    def use_density(self, name: str) -> None:
        """Act and score with another density from now on; only "decision" changes the actions.

        Decisions must be scored with the density that they were made with.

        Raises:
            ValueError: If there is no such density, or the settings fix another one.
        """
        self.head.use_density(name)

    def exactness(self, density: str | None = None) -> Exactness:
        """What the log-probabilities of a density (None: the current one) may be used for.

        Raises:
            ValueError: If there is no such density.
        """
        found: Exactness = self.head.exactness(density)
        return found

    def deviations(self) -> list[nn.Parameter]:
        """Parameters of the group "head" that only set the size of the exploration noise."""
        found: list[nn.Parameter] = self.head.deviations()
        return found

    def deviation(self) -> Floats | None:
        """Mean exploration standard deviation of each action dimension, ``[A]``.

        None where there is none, or where it depends on the observation.
        """
        found: Tensor | None = self.head.deviation()
        return None if found is None else found.cpu().numpy()

    def remember(self, instructions: Sequence[str]) -> None:
        """Encode and store the instructions that are not stored yet."""
        new = [s for s in dict.fromkeys(instructions) if s not in self.text_memory]
        if new:
            self.text_memory.update(zip(new, self.encode_text(new), strict=True))

    def fit_statistics(self, states: Floats) -> None:
        """Normalise proprioception by the mean and standard deviation of ``[n, S]`` states."""
        self._check_states(states)
        values = np.asarray(states, np.float64)
        self.set_statistics(values.mean(0), values.std(0))

    def set_statistics(self, mean: NDArray[np.float64], std: NDArray[np.float64]) -> None:
        """Normalise proprioception by a mean and a standard deviation, both ``[S]``."""
        self.state_mean.copy_(torch.tensor(mean))
        self.state_std.copy_(torch.tensor(std).clamp(min=_STD_FLOOR))

    def clamped_share(self, states: Floats) -> float:
        """Share of ``[n, S]`` states with a coordinate that the normalisation clamps.

        Such a coordinate lies more than 5 standard deviations from the mean. A large share means
        that the statistics no longer describe the states that the policy visits.
        """
        self._check_states(states)
        away = np.abs(states - self.state_mean.cpu().numpy()) / self.state_std.cpu().numpy()
        return float((away > _STATE_RANGE).any(axis=1).mean())

    def freeze(self, groups: Collection[str]) -> None:
        """Train every group except these; ``freeze(())`` trains all."""
        for name in groups:
            if name not in GROUPS:
                raise ValueError(plugins.unknown("parameter group", name, GROUPS))
        for name, parameters in self.groups().items():
            for parameter in parameters:
                parameter.requires_grad_(name not in groups)
        self.frozen = frozenset(groups)

    def train(self: PolicyT, mode: bool = True) -> PolicyT:
        """Stay in evaluation mode: acting and updating must use the same network.

        With dropout, or statistics of batch normalisation that change, the log-probabilities of an
        update would differ from those at acting.
        """
        return super().train(False)

    def act(
        self, obs: Observation, instructions: Sequence[str], keys: NDArray[np.int64] | None
    ) -> ActionChunk:
        """Choose B chunks; ``keys`` ``[B, 2]`` seed the noise, ``None`` acts greedily."""
        with torch.inference_mode():
            text, state = self._words(instructions), self._proprioception(obs)
            cache = self._kept(obs, text) if self.caches else None
            if cache is None:
                seen = self.encode_images(self._tensor(obs.images), text)
            else:
                seen = self.from_cache(cache.float(), text)
            sample = self.head.sample(*self.context(seen, text, state), keys)
            value = self.estimate_value(seen, text, state)
        empty = np.zeros((len(seen), 0), np.float16)
        return ActionChunk(
            actions=sample.actions.cpu().numpy(),
            raw=sample.raw.cpu().numpy(),
            logprob=sample.logprob.cpu().numpy(),
            value=value.cpu().numpy(),
            features=empty if cache is None else cache.cpu().numpy(),
        )

    def evaluate(
        self, obs: Observation, instructions: Sequence[str], raw: Floats, features: Array
    ) -> Scores:
        """Score B decisions, from ``features`` instead of images if the policy caches them."""
        text, state = self._words(instructions), self._proprioception(obs)
        seen = self._seen(obs, text, features)
        logprob, entropy = self.head.score(*self.context(seen, text, state), self._tensor(raw))
        if "critic" in self.frozen:
            return Scores(logprob, entropy, torch.zeros(len(logprob), device=logprob.device))
        return Scores(logprob, entropy, self.estimate_value(seen.detach(), text, state))

    def imitation_loss(
        self,
        obs: Observation,
        instructions: Sequence[str],
        actions: Floats,
        mask: NDArray[np.bool_],
        features: Array | None = None,
        generator: Generator | None = None,
    ) -> Tensor:
        """Scalar loss of imitating ``actions`` ``[B, H, A]`` where ``mask`` ``[B, H]`` is true.

        ``features`` replace the images if the policy caches them. ``generator`` (on the CPU) draws
        the noise that some heads need for it; None uses torch's global generator.
        """
        if self.caches and features is None:
            features = self.features(obs, instructions)
        text, state = self._words(instructions), self._proprioception(obs)
        context, words = self.context(self._seen(obs, text, features), text, state)
        loss: Tensor = self.head.imitation_loss(
            context, words, self._tensor(actions), self._tensor(mask), generator
        )
        return loss

    def features(self, obs: Observation, instructions: Sequence[str]) -> Array:
        """The features that acting would cache, ``[B, F]`` float16.

        Raises:
            ValueError: If the policy caches no features.
        """
        if not self.caches:
            raise ValueError('this policy caches no features: freeze({"vlm"}) first')
        with torch.inference_mode():
            found: Array = self._kept(obs, self._words(instructions)).cpu().numpy()
        return found

    # ----------------------------------------------------------------------------------- helpers

    def _check_states(self, states: Floats) -> None:
        if states.ndim != 2 or states.shape[1] != self.spaces.state_dim or not len(states):
            raise ValueError(
                f"states have shape {states.shape}, expected [n, {self.spaces.state_dim}], n > 0"
            )

    def _kept(self, obs: Observation, text: Tensor) -> Tensor:
        return self.cache_features(self._tensor(obs.images), text).half()

    def _seen(self, obs: Observation, text: Tensor, features: Array | None) -> Tensor:
        """Features with gradient into the trained parameters, from cached ones if there are."""
        if not self.caches or features is None:
            return self.encode_images(self._tensor(obs.images), text)
        if self.spaces.views and not features.shape[-1]:
            raise ValueError(
                'the backbone is frozen but these decisions carry no features: freeze({"vlm"}) '
                "before the policy acts, too"
            )
        return self.from_cache(self._tensor(features).float(), text)

    def _words(self, instructions: Sequence[str]) -> Tensor:
        """Text features ``[B, E]``."""
        distinct = {sentence: index for index, sentence in enumerate(dict.fromkeys(instructions))}
        for sentence in distinct:
            if sentence not in self.text_memory:
                raise ValueError(f"unknown instruction {sentence!r}: remember() it first")
        table = self._tensor(np.stack([self.text_memory[sentence] for sentence in distinct]))
        return table[[distinct[sentence] for sentence in instructions]]

    def _proprioception(self, obs: Observation) -> Tensor:
        state = (self._tensor(obs.state) - self.state_mean) / self.state_std
        return state.clamp(-_STATE_RANGE, _STATE_RANGE)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        # A copy, because arrays from other processes are often read-only.
        return torch.tensor(array, device=self.state_mean.device)


def load_policy(source: str | Path, spaces: Spaces | None = None, **options: Any) -> PolicyBase:
    """Load a saved policy of any class, from a folder or from the Hugging Face hub.

    The arguments are those of :meth:`PolicyBase.from_pretrained`.

    Raises:
        ValueError: As ``from_pretrained``, or if the class cannot be imported.
    """
    folder = hub.find(source, **options)
    path: str = pretrained.describe(folder)["class"]
    found: type[PolicyBase] = plugins.load("policies", path.rpartition(".")[0]).Policy
    return found.from_pretrained(folder, spaces)
