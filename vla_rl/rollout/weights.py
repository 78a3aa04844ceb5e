"""Transfer of weights from the learner to the processes that act."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_rl.policy import Policy


class Weights(Protocol):
    """A small handle of published weights, which can be sent to another process.

    Equal handles refer to the same weights, which then need not be loaded again.
    """

    def load(self, policy: Policy) -> None:
        """Load the weights into a policy of the same shape."""


@dataclass(frozen=True)
class InSharedMemory:
    """Weights in a block of shared memory on this machine.

    Attributes:
        name: Name of the block.
        version: Version of the weights in it.
    """

    name: str
    version: int

    def load(self, policy: Policy) -> None:
        """See :class:`Weights`."""
        segment = SharedMemory(self.name)
        with torch.no_grad():
            for tensor, block in _laid_out(policy, segment):
                flat = torch.from_numpy(block.copy()).view(tensor.dtype)
                tensor.copy_(flat.view(tensor.shape))
                del block  # otherwise the segment could not be closed
        segment.close()


class SharedWeights:
    """A policy's parameters and buffers in one shared block, laid out in ``state_dict`` order."""

    def __init__(self, policy: Policy) -> None:
        """Allocate a block for this policy."""
        total = sum(t.numel() * t.element_size() for t in policy.state_dict().values())
        self._segment = SharedMemory(create=True, size=max(total, 1))
        self._version = 0

    def publish(self, policy: Policy) -> InSharedMemory:
        """Write the policy's weights and return a handle of them."""
        with torch.no_grad():
            for tensor, block in _laid_out(policy, self._segment):
                flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                block[:] = flat.numpy()
                del block
        self._version += 1
        return InSharedMemory(self._segment.name, self._version)

    def close(self) -> None:
        """Remove the block."""
        self._segment.close()
        self._segment.unlink()


def _laid_out(policy: Policy, segment: SharedMemory) -> Iterator[tuple[Tensor, NDArray[np.uint8]]]:
    """Every non-empty tensor, with its bytes in the block."""
    offset = 0
    for tensor in policy.state_dict().values():
        size = tensor.numel() * tensor.element_size()
        if size:
            yield tensor, np.ndarray(size, np.uint8, segment.buf, offset)
            offset += size
