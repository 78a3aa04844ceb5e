"""The loss of a policy on demonstrated chunks."""

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
    """Imitation loss of a policy on a batch of chunks, from cached features if there are any."""
    obs, words, actions, mask, _ = batch
    return policy.imitation_loss(obs, words, actions, mask, features, noise)


def noise_generator(seed: int, use: str, *index: int) -> torch.Generator:
    """CPU generator, for one use, of the noise that some heads need for imitation."""
    return torch.Generator().manual_seed(seeding.word(seed, use, *index))


def kept_features(policy: Policy, data: ChunkDataset, batch_size: int) -> Array:
    """Features ``[n, F]`` of a frozen backbone for every row of the demonstrations."""
    rows = np.array_split(np.arange(len(data)), -(-len(data) // batch_size))
    batches = map(data.take, rows)
    return np.concatenate([policy.features(b.obs, b.instruction) for b in batches])
