"""Supervised fine-tuning: clone chunks of demonstrated actions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vla_rl import seeding
from vla_rl.demos.chunks import ChunkDataset
from vla_rl.learning.distributed import ALONE, Ranks
from vla_rl.learning.held_out import HeldOut
from vla_rl.learning.imitation import imitation_loss, kept_features, noise_generator
from vla_rl.learning.learner import Learner, LearnerConfig
from vla_rl.policy import Policy
from vla_rl.types import Observation


@dataclass(frozen=True)
class SFTConfig:
    """Behaviour cloning."""

    steps: int = 450
    """Gradient steps."""
    batch_size: int = 64
    """Recorded steps per batch."""
    lr: float = 1e-3
    """Peak learning rate of a one-cycle schedule, for backbone and head."""
    weight_decay: float = 1e-4
    """Decoupled weight decay (AdamW)."""
    max_grad_norm: float = 1.0
    """Largest gradient norm of each group of parameters (backbone, head, deviation); larger ones
    are scaled down to it."""
    image_shift: int = 1
    """Largest random shift of every image, in pixels (augmentation). In images of 64 px a pixel is
    about 1.3 cm, so large shifts hide what precise tasks need."""
    colour_jitter: float = 0.0
    """Strength of the random colour change of every image (augmentation): about the share by which
    channels are mixed and brightness is changed. 0.5 lets a small network that is trained from
    scratch recognise objects of other colours."""
    state_noise: float = 0.05
    """Size of the noise added to proprioception, in standard deviations of the demonstrations."""
    balance_tasks: bool = True
    """Draw every task equally often, regardless of how many demonstrations it has."""
    train_vlm: bool = True
    """Train the backbone, too. Otherwise its features of the demonstrations are computed only once,
    which is much faster with a large backbone, and images are not augmented."""
    validation_share: float = 0.0
    """Share of each task's starts whose demonstrations are held out, in [0, 1). Their loss is
    logged as `sft/validation_loss`, and the weights with the lowest one are kept. 0 trains on all
    demonstrations and keeps the last weights."""
    validation_every: int = 50
    """Gradient steps between two evaluations of the held-out loss."""
    early_stop: int = 0
    """Stop after this many evaluations in a row without a lower held-out loss, before the learning
    rate has fallen to 0; 0 never stops early."""
    checkpoint_every: int = 200
    """Gradient steps between checkpoints."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "validation_every", "checkpoint_every"):
            if vars(self)[name] < 1:
                raise ValueError(f"sft {name} must be at least 1, got {vars(self)[name]}")
        if not 0 <= self.validation_share < 1:
            raise ValueError(
                f"sft validation_share must be in [0, 1), got {self.validation_share}: it is the "
                "share of the starts that is held out"
            )
        if self.early_stop < 0:
            raise ValueError(f"sft early_stop must not be negative, got {self.early_stop}")
        if self.early_stop and not self.validation_share:
            raise ValueError(
                f"sft early_stop {self.early_stop} needs a held-out loss: set "
                "validation_share, for instance to 0.1"
            )
        for name in ("lr", "max_grad_norm"):
            if not vars(self)[name] > 0:
                raise ValueError(f"sft {name} must be positive, got {vars(self)[name]}")
        for name in ("image_shift", "colour_jitter", "state_noise", "weight_decay"):
            if vars(self)[name] < 0:
                raise ValueError(f"sft {name} must not be negative, got {vars(self)[name]}")


@dataclass(frozen=True)
class AnchorConfig:
    """Imitation of demonstrations during reinforcement learning (off by default)."""

    coef: float = 0.0
    """Weight of the cloning loss that is added to every policy-gradient step; 0 for none. It keeps
    tasks that are not solved yet from drifting while others improve (DAPG, 2018)."""
    batch_size: int = 64
    """Recorded steps per batch."""
    micro_batch_size: int = 0
    """Recorded steps in memory at once, over which gradients are accumulated; 0 for the whole
    batch."""

    def __post_init__(self) -> None:
        if self.coef < 0:
            raise ValueError(f"anchor coef must not be negative, got {self.coef}")
        if self.batch_size < 1:
            raise ValueError(f"anchor batch_size must be at least 1, got {self.batch_size}")
        if self.micro_batch_size < 0:
            raise ValueError(
                f"anchor micro_batch_size must not be negative, got {self.micro_batch_size}"
            )


OnStep = Callable[[int, dict[str, float]], None]


class Cloning:
    """Supervised fine-tuning step by step, so that it can be checkpointed midway and resumed.

    Attributes:
        learner: Trains the head and, unless it is frozen, the backbone.
        step: Gradient steps done.
        validation: The loss of held-out demonstrations, if there are any.
    """

    def __init__(
        self,
        policy: Policy,
        data: ChunkDataset,
        config: SFTConfig,
        seed: int,
        held_out: ChunkDataset | None = None,
    ) -> None:
        """Prepare to fit a policy, in place.

        Args:
            policy: The policy to train; its proprioception statistics do not change.
            data: Demonstrated chunks.
            config: Settings of the training.
            seed: Seed of the order, the augmentation and a head's noise.
            held_out: Chunks for validation.
        """
        policy.remember(data.sentences)
        self._policy, self._data, self._config = policy, data, config
        self.learner = Learner(
            policy,
            LearnerConfig(
                lr=config.lr,
                vlm_lr=config.lr,
                std_lr=config.lr,
                weight_decay=config.weight_decay,
                max_grad_norm=config.max_grad_norm,
            ),
            trains=("vlm", "head") if config.train_vlm else ("head",),
        )
        self.step = 0
        self.validation: HeldOut | None = None
        if held_out is not None:
            self.validation = HeldOut(
                policy, held_out, config.batch_size, config.balance_tasks, seed
            )
        self._kept = None if config.train_vlm else kept_features(policy, data, config.batch_size)
        self._spread = data.obs.state.std(axis=0)
        self._rng = seeding.generator(seed, "order of cloning")
        self._noise = noise_generator(seed, "noise of cloning")

    def advance(self) -> float:
        """Take one gradient step and return the loss."""
        config, data = self._config, self._data
        batch = data.sample(self._rng, config.batch_size, config.balance_tasks)
        obs = augment(batch.obs, config, self._spread, self._rng)
        features = None if self._kept is None else self._kept[batch.rows]
        batch = batch._replace(obs=obs)
        loss = imitation_loss(self._policy, batch, features, self._noise)
        self.learner.accumulate(loss)
        self.learner.step(rate=one_cycle(self.step / config.steps))
        self.step += 1
        return float(loss.detach())

    def run(self, on_step: OnStep) -> None:
        """Train to the last step, or until the held-out loss has stopped falling.

        Where something is held out, the policy ends with the weights of the lowest held-out loss.

        Args:
            on_step: Called with the step (from 1) and the losses after every gradient step.
        """
        config, validation = self._config, self.validation
        while self.step < config.steps:
            if validation is not None and validation.is_stuck(config.early_stop):
                break
            losses = {"sft/loss": self.advance()}
            looks = self.step % config.validation_every == 0 or self.step == config.steps
            if validation is not None and looks:
                losses["sft/validation_loss"] = validation.look(self.step)
            on_step(self.step, losses)
        if validation is not None:
            validation.take_best()

    def state_dict(self) -> dict[str, object]:
        """The state apart from weights and optimizer; contains tensors."""
        return {
            "step": self.step,
            "order": self._rng.bit_generator.state,
            "noise": self._noise.get_state(),
            "validation": {} if self.validation is None else self.validation.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state written by :meth:`state_dict`."""
        self.step = state["step"]
        self._rng.bit_generator.state = state["order"]
        self._noise.set_state(state["noise"])
        if self.validation is not None:
            self.validation.load_state_dict(state["validation"])


def one_cycle(done: float, warm_up: float = 0.3) -> float:
    """Learning-rate factor of Smith's one-cycle schedule after a share ``done`` of the steps.

    It rises along a cosine from 1/25 to 1 during the warm-up share, then falls along one to 0.
    """
    if done < warm_up:
        low = 1 / 25
        return low + (1 - low) * 0.5 * (1 - math.cos(math.pi * done / warm_up))
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


def augment(
    obs: Observation, config: SFTConfig, spread: np.ndarray, rng: np.random.Generator
) -> Observation:
    """Shift (repeating edges) and recolour the images of every row, and add noise to its state."""
    pad = config.image_shift
    images = obs.images
    if pad and images.size:
        size = images.shape[2]
        wide = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")
        corners = rng.integers(0, 2 * pad + 1, (len(images), 2))
        images = np.stack(
            [wide[i, :, y : y + size, x : x + size] for i, (y, x) in enumerate(corners)]
        )
    if config.colour_jitter and images.size:
        images = recoloured(images, config.colour_jitter, rng)
    jitter = config.state_noise * spread * rng.standard_normal(obs.state.shape)
    return Observation(images, (obs.state + jitter).astype(np.float32))


def recoloured(
    images: NDArray[np.uint8], size: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Apply a random linear map of colours to each row of ``[B, V, h, w, 3]`` images.

    The map is the identity plus noise of standard deviation ``size`` whose rows sum to 0, so that
    grey stays grey, times a brightness between 1 - size and 1 + size (at least 0).
    """
    noise = rng.standard_normal((len(images), 3, 3))
    mix = np.eye(3) + size * (noise - noise.mean(axis=2, keepdims=True))
    mix *= np.maximum(1 + size * rng.uniform(-1, 1, (len(images), 1, 1)), 0)
    flat = images.reshape(len(images), -1, 3).astype(np.float32)
    changed = np.clip(flat @ mix.transpose(0, 2, 1).astype(np.float32), 0, 255)
    made: NDArray[np.uint8] = changed.astype(np.uint8).reshape(images.shape)
    return made


class DemoAnchor:
    """The cloning loss of a fresh batch of demonstrations, times its coefficient.

    As in DAPG (Rajeswaran et al., 2018, arXiv 1709.10087), without its decay. The features of a
    frozen backbone are computed once.
    """

    def __init__(
        self,
        policy: Policy,
        data: ChunkDataset,
        config: AnchorConfig,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        """Prepare to draw batches from ``data``, each of which is shared among the ranks."""
        policy.remember(data.sentences)
        self._policy, self._data, self._config, self._seed = policy, data, config, seed
        self._ranks = ranks
        self._features = kept_features(policy, data, config.batch_size) if policy.caches else None

    def __call__(self, step: int) -> Iterator[Tensor]:
        """Yield the losses of this rank's micro-batches, scalars with gradient.

        Their sum over micro-batches and ranks is the whole loss. Batch and noise depend on the seed
        and the step; the noise that some heads need also depends on how the batch is divided.
        """
        pieces = self._pieces(step)
        for number in self._ranks.share(range(len(pieces))):
            yield self._part(step, pieces, number)

    def _pieces(self, step: int) -> list[NDArray[np.int64]]:
        """Rows of the batch in micro-batches, at least one for every rank."""
        config = self._config
        rng = seeding.generator(self._seed, "anchor", step)
        rows = self._data.sample(rng, config.batch_size, balance_tasks=True).rows
        most = config.micro_batch_size or len(rows)
        count = max(-(-len(rows) // most), self._ranks.size)
        return np.array_split(rows, min(count, len(rows)))

    def _part(self, step: int, pieces: Sequence[NDArray[np.int64]], number: int) -> Tensor:
        """The loss of one micro-batch, weighted by its share of the demonstrated actions."""
        rows = pieces[number]
        share = self._data.mask[rows].sum() / self._data.mask[np.concatenate(pieces)].sum()
        features = None if self._features is None else self._features[rows]
        noise = noise_generator(self._seed, "noise of the anchor", step, number)
        loss = imitation_loss(self._policy, self._data.take(rows), features, noise)
        return self._config.coef * float(share) * loss
