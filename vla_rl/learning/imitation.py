"""From demonstrated chunks to a policy's loss, for whoever imitates."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vla_rl import seeding
from vla_rl.demos.chunks import ChunkBatch, ChunkDataset
from vla_rl.policy import Policy
from vla_rl.types import Array


def imitation_loss(
    policy: Policy, batch: ChunkBatch, features: Array | None, noise: torch.Generator
) -> Tensor:
    """A policy's loss towards the chunks of a batch, with or without kept features of its rows."""
    obs, words, actions, mask, _ = batch
    return policy.imitation_loss(obs, words, actions, mask, features, noise)


def noise_generator(seed: int, use: str, *index: int) -> torch.Generator:
    """A generator on the CPU of the noise that some heads imitate with, for one use."""
    return torch.Generator().manual_seed(seeding.word(seed, use, *index))


def kept_features(policy: Policy, data: ChunkDataset, batch_size: int) -> Array:
    """What a frozen backbone makes of every row of the demonstrations, ``[n, F]``."""
    rows = np.array_split(np.arange(len(data)), -(-len(data) // batch_size))
    batches = map(data.take, rows)
    return np.concatenate([policy.features(b.obs, b.instruction) for b in batches])
