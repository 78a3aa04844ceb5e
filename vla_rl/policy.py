"""The policy contract, and a base class that keeps most of it.

A policy *sees* (a backbone turns images into features), *acts* (an action head turns features, the
instruction and proprioception into a chunk of actions) and *judges* (a critic). Its parameters form
the three groups ``"vlm"``, ``"head"`` and ``"critic"``. What a frozen backbone, or a frozen part of
one, makes of the images is computed once, at acting, and every update starts from it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vla_rl import plugins, pretrained
from vla_rl.types import ActionChunk, Array, Floats, Observation, Spaces

GROUPS = ("vlm", "head", "critic")
MAX_SHARD_SIZE = "2GB"
_STD_FLOOR = 0.01  # a coordinate that hardly moved in the demonstrations must not be blown up
_STATE_RANGE = 5.0  # deviations; a few demonstrations do not bound what is met later


@dataclass(frozen=True)
class Scores:
    """What a policy thinks of decisions that were made; with gradient.

    Attributes:
        logprob: ``[B, K]`` log-probability of every unit, in nats.
        entropy: ``[B, K]`` entropy of every unit, in nats.
        value: ``[B]`` critic estimate.
    """

    logprob: Tensor
    entropy: Tensor
    value: Tensor


class Policy(Protocol):
    """What a module in ``policies/`` must define as ``Policy``; a ``torch.nn.Module`` besides.

    ``logprob`` of :meth:`act` equals that of :meth:`evaluate` for the same weights, up to float32
    rounding. Noise is a function of a row's key alone.
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
    def keeps(self) -> bool:
        """Whether acting keeps features, from which updates start instead of the images."""

    @classmethod
    def blank(cls, config: Any, spaces: Spaces) -> Policy:
        """A policy whose weights will be replaced, so none are fetched."""

    def remember(self, instructions: Sequence[str]) -> None:
        """Encode sentences that were not met before; other methods accept only these."""

    def fit_statistics(self, states: Floats) -> None:
        """Normalise proprioception by the mean and deviation of ``[n, S]`` states."""

    def freeze(self, groups: Collection[str]) -> None:
        """Train everything except these groups."""

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Disjoint trainable parameters by group."""

    def act(
        self, obs: Observation, instructions: Sequence[str], keys: NDArray[np.int64] | None
    ) -> ActionChunk:
        """Decide for B rows; ``keys`` ``[B, 2]`` seed the noise, ``None`` acts greedily."""

    def evaluate(
        self, obs: Observation, instructions: Sequence[str], raw: Floats, features: Array
    ) -> Scores:
        """Score B decisions; from ``features`` and without images if the policy keeps them.

        A frozen critic is not asked.
        """

    def imitation_loss(
        self,
        obs: Observation,
        instructions: Sequence[str],
        actions: Floats,
        mask: NDArray[np.bool_],
        features: Array | None = None,
    ) -> Tensor:
        """A scalar to minimise so that the policy does ``[B, H, A]`` where ``[B, H]``."""

    def features(self, obs: Observation, instructions: Sequence[str]) -> Array:
        """What acting would keep, ``[B, F]``; only for a policy that keeps features."""

    def save_pretrained(self, folder: Path) -> None:
        """Write weights, settings and remembered sentences."""

    def load_state_dict(self, state: Mapping[str, Any]) -> object:
        """Take over weights, as any ``torch.nn.Module``."""

    def state_dict(self) -> dict[str, Any]:
        """Parameters and buffers by name, as of any ``torch.nn.Module``."""


class Sample(NamedTuple):
    """What an action head does: ``raw [B, R]``, ``actions [B, H, A]``, ``logprob [B, K]``."""

    raw: Tensor
    actions: Tensor
    logprob: Tensor


class ActionHead(Protocol):
    """From a context ``[B, D]`` and the instruction ``[B, E]`` to a chunk; an ``nn.Module``."""

    units: int

    def sample(self, context: Tensor, text: Tensor, keys: NDArray[np.int64] | None) -> Sample:
        """Draw chunks with the noise of ``keys``, or the preferred ones without keys."""

    def score(self, context: Tensor, text: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy of what was sampled, both ``[B, K]``."""

    def imitation_loss(
        self, context: Tensor, text: Tensor, actions: Tensor, mask: Tensor
    ) -> Tensor:
        """How far the head is from ``actions`` ``[B, H, A]`` where ``mask`` ``[B, H]``."""


PolicyT = TypeVar("PolicyT", bound="PolicyBase")


class PolicyBase(nn.Module):
    """A policy made of a backbone, an action head and a critic.

    Subclasses set ``config_class`` and ``head`` and implement :meth:`see`, :meth:`context`,
    :meth:`judge`, :meth:`groups` and :meth:`encode_text`. A config needs a field ``chunk``.
    """

    config_class: ClassVar[type[Any]]
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
    def see(self, images: Tensor, text: Tensor) -> Tensor:
        """Backbone features ``[B, F]`` of ``[B, V, h, w, 3]`` uint8 images and a text ``[B, E]``."""

    @abstractmethod
    def context(self, features: Tensor, text: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The head's context ``[B, D]`` and its view of the instruction ``[B, E]``."""

    @abstractmethod
    def judge(self, features: Tensor, text: Tensor, state: Tensor) -> Tensor:
        """The critic's value ``[B]`` from detached features."""

    @abstractmethod
    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Disjoint trainable parameters by the names in ``GROUPS``."""

    @abstractmethod
    def encode_text(self, sentences: Sequence[str]) -> Floats:
        """Features ``[n, E]`` of sentences; each depends on its sentence only."""

    # ------------------------------------- what a subclass with a frozen part may define besides

    @property
    def keeps(self) -> bool:
        """Whether acting keeps features, from which updates start instead of the images."""
        return "vlm" in self.frozen

    def keep(self, images: Tensor, text: Tensor) -> Tensor:
        """What a frozen part makes of the images, ``[B, F]``: here the whole backbone."""
        return self.see(images, text)

    def recall(self, kept: Tensor, text: Tensor) -> Tensor:
        """From what was kept to what :meth:`see` returns; with gradient into what is trained."""
        return kept

    # ------------------------------------------------------------------------------- the contract

    @property
    def units(self) -> int:
        """Log-prob units of one decision, K."""
        units: int = self.head.units
        return units

    def remember(self, instructions: Sequence[str]) -> None:
        """Encode the sentences that were not met before."""
        new = [s for s in dict.fromkeys(instructions) if s not in self.text_memory]
        if new:
            self.text_memory.update(zip(new, self.encode_text(new), strict=True))

    def fit_statistics(self, states: Floats) -> None:
        """Normalise proprioception by the mean and deviation of ``[n, S]`` states."""
        if states.ndim != 2 or states.shape[1] != self.spaces.state_dim or not len(states):
            raise ValueError(
                f"states have shape {states.shape}, expected [n, {self.spaces.state_dim}], n > 0"
            )
        values = np.asarray(states, np.float64)
        self.state_mean.copy_(torch.tensor(values.mean(0)))
        self.state_std.copy_(torch.tensor(values.std(0)).clamp(min=_STD_FLOOR))

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
        """Stay in evaluation mode: acting and updating must see the same network.

        Batch normalisation keeps its statistics and dropout is off, or the log-probabilities of an
        update would differ from those at acting.
        """
        return super().train(False)

    def act(
        self, obs: Observation, instructions: Sequence[str], keys: NDArray[np.int64] | None
    ) -> ActionChunk:
        """Decide for B rows; ``keys`` ``[B, 2]`` seed the noise, ``None`` acts greedily."""
        with torch.inference_mode():
            text, state = self._words(instructions), self._proprioception(obs)
            cache = self._kept(obs, text) if self.keeps else None
            if cache is None:
                seen = self.see(self._tensor(obs.images), text)
            else:
                seen = self.recall(cache.float(), text)
            sample = self.head.sample(*self.context(seen, text, state), keys)
            value = self.judge(seen, text, state)
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
        """Score B decisions; from ``features`` and without images if the policy keeps them."""
        text, state = self._words(instructions), self._proprioception(obs)
        seen = self._seen(obs, text, features)
        logprob, entropy = self.head.score(*self.context(seen, text, state), self._tensor(raw))
        if "critic" in self.frozen:
            return Scores(logprob, entropy, torch.zeros(len(logprob), device=logprob.device))
        return Scores(logprob, entropy, self.judge(seen.detach(), text, state))

    def imitation_loss(
        self,
        obs: Observation,
        instructions: Sequence[str],
        actions: Floats,
        mask: NDArray[np.bool_],
        features: Array | None = None,
    ) -> Tensor:
        """A scalar to minimise so that the policy does ``[B, H, A]`` where ``[B, H]``.

        ``features`` may replace the images if the policy keeps them.
        """
        if self.keeps and features is None:
            features = self.features(obs, instructions)
        text, state = self._words(instructions), self._proprioception(obs)
        context, words = self.context(self._seen(obs, text, features), text, state)
        loss: Tensor = self.head.imitation_loss(
            context, words, self._tensor(actions), self._tensor(mask)
        )
        return loss

    def features(self, obs: Observation, instructions: Sequence[str]) -> Array:
        """What acting would keep, ``[B, F]`` float16; only for a policy that keeps features."""
        with torch.inference_mode():
            found: Array = self._kept(obs, self._words(instructions)).cpu().numpy()
        return found

    # ---------------------------------------------------------------------------------- on disk

    def save_pretrained(self, folder: Path, max_shard_size: int | str = MAX_SHARD_SIZE) -> None:
        """Write ``config.json`` and safetensors files of at most ``max_shard_size`` each."""
        tensors = self.state_dict()
        sentences = list(self.text_memory)
        if sentences:
            tensors["text_memory"] = torch.tensor(
                np.stack([self.text_memory[sentence] for sentence in sentences])
            )
        description = {
            "class": _path(type(self)),
            "config": asdict(self.config),
            "spaces": asdict(self.spaces),
            "sentences": sentences,
        }
        pretrained.write(Path(folder), tensors, description, max_shard_size)

    @classmethod
    def from_pretrained(cls: type[PolicyT], folder: Path, spaces: Spaces | None = None) -> PolicyT:
        """Read what ``save_pretrained`` wrote.

        Args:
            folder: Where it was written.
            spaces: What the policy is needed for; ``None`` takes what it was made for.

        Raises:
            ValueError: If a file is missing or damaged, or class or spaces are others.
        """
        found = pretrained.describe(Path(folder))
        if found["class"] != _path(cls):
            raise ValueError(f"{folder} holds a {found['class']}, not a {_path(cls)}")
        saved: Spaces = _rebuild(Spaces, found["spaces"], folder)
        if spaces not in (None, saved):
            raise ValueError(f"{folder} was made for {saved}, not for {spaces}")
        policy = cls.blank(_rebuild(cls.config_class, found["config"], folder), saved)
        tensors = pretrained.tensors(Path(folder))
        sentences = found["sentences"]
        memory = tensors.pop("text_memory", torch.zeros(0)).numpy()
        if len(memory) != len(sentences):
            raise ValueError(
                f"{folder} holds {len(memory)} encoded sentences, expected {len(sentences)}"
            )
        policy.text_memory = dict(zip(sentences, memory, strict=True))
        try:
            policy.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(f"the tensors in {folder} do not fit: {error}") from error
        return policy

    @classmethod
    def blank(cls: type[PolicyT], config: Any, spaces: Spaces) -> PolicyT:
        """A policy whose weights will be replaced, so none are fetched."""
        return cls(config, spaces)

    # ----------------------------------------------------------------------------------- helpers

    def _kept(self, obs: Observation, text: Tensor) -> Tensor:
        return self.keep(self._tensor(obs.images), text).half()

    def _seen(self, obs: Observation, text: Tensor, features: Array | None) -> Tensor:
        """Features with gradient into what is trained; from the kept ones where there are some."""
        if not self.keeps or features is None:
            return self.see(self._tensor(obs.images), text)
        if self.spaces.views and not features.shape[-1]:
            raise ValueError(
                'the backbone is frozen but these decisions carry no features: freeze({"vlm"}) '
                "also where the policy acts"
            )
        return self.recall(self._tensor(features).float(), text)

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
        # A copy, as arrays that come from other processes are often read-only.
        return torch.tensor(array, device=self.state_mean.device)


def load_policy(folder: Path, spaces: Spaces | None = None) -> PolicyBase:
    """Read a policy of whichever class was saved.

    Raises:
        ValueError: As ``from_pretrained``, or if the class cannot be imported.
    """
    path: str = pretrained.describe(Path(folder))["class"]
    found: type[PolicyBase] = plugins.load("policies", path.rpartition(".")[0]).Policy
    return found.from_pretrained(folder, spaces)


def _path(policy: type[PolicyBase]) -> str:
    return f"{policy.__module__}.{policy.__qualname__}"


def _rebuild(kind: type[Any], values: dict[str, Any], folder: Path) -> Any:
    """A dataclass from JSON; its sequences are tuples."""
    names = {f.name for f in fields(kind)}
    if values.keys() != names:
        odd = sorted(values.keys() ^ names)
        raise ValueError(f"{folder}: fields {', '.join(odd)} do not match {kind.__name__}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
