"""Training in several processes (`torchrun`), or in a single one.

Every rank plays its share of the groups and sends the others the numbers of each episode; images
stay where they were rendered. Each computes the gradient of those decisions of a minibatch that it
played; their sum is the gradient that one process would compute.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, seen from one of them.

    Attributes:
        rank: Index of this process, from 0.
        size: Number of processes.
        size_here: Number of processes on this machine.
    """

    rank: int = 0
    size: int = 1
    size_here: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints messages."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's items: every ``size``-th one, starting with number ``rank``."""
        return list(items[self.rank :: self.size])

    def total(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over ranks, in place; the result is bit-equal on all ranks."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, items: Sequence[T]) -> list[T]:
        """Gather the results of items divided by :meth:`share`, in the order of all items.

        Raises:
            ValueError: If a rank has more or fewer than its share; see :meth:`all_gather`.
        """
        parts = self._by_rank(items)
        whole: list[T] = [item for part in parts for item in part]
        for rank, part in enumerate(parts):
            whole[rank :: self.size] = part
        return whole

    def exchange(self, items: Sequence[T], shorten: Callable[[T], T]) -> list[T]:
        """As :meth:`gather`, but the items of the other ranks are shortened by ``shorten``."""
        whole = self.gather([shorten(item) for item in items])
        whole[self.rank :: self.size] = items
        return whole

    def all_gather(self, items: Sequence[T]) -> list[T]:
        """Concatenate the items of all ranks, which may differ in number."""
        return [item for part in self._by_rank(items) for item in part]

    def any(self, flag: bool) -> bool:
        """Whether the flag is true on any rank."""
        return bool(self.total(torch.tensor([flag], dtype=torch.int64)))

    def on_main(self, action: Callable[[], None]) -> None:
        """Run an action on the main process only; if it fails, all ranks raise the same error."""
        errors: list[Exception] = []
        if self.is_main:
            try:
                action()
            except Exception as error:
                errors.append(error)
        for failure in self.all_gather(errors):
            raise failure

    def _by_rank(self, items: Sequence[T]) -> list[list[T]]:
        if self.size == 1:
            return [list(items)]
        parts: list[list[T]] = [[]] * self.size
        dist.all_gather_object(parts, list(items))
        return parts


ALONE = Ranks()


@contextmanager
def join(device: str = "cpu") -> Iterator[Ranks]:
    """Join the process group of `torchrun`, and leave it at the end.

    Args:
        device: ``"cpu"``, or ``"cuda"`` for one GPU per process, chosen by ``LOCAL_RANK``. It
            becomes the current device, so call this before moving anything to a GPU.

    Yields:
        The ranks as seen from this process; :data:`ALONE` without `torchrun`.

    Raises:
        ValueError: If there are more processes than GPUs on this machine.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield ALONE
        return
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device == "cuda":
        gpus = torch.cuda.device_count()
        if local > gpus:
            raise ValueError(
                f"{local} processes were started on a machine with {gpus} GPUs: start one per "
                "GPU, or add --device cpu"
            )
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), world, local)
    finally:
        dist.destroy_process_group()
