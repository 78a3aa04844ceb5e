"""Demonstrations that are held out of supervised learning, and the weights that fit them best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vla_rl import seeding
from vla_rl.demos.chunks import ChunkDataset
from vla_rl.learning.imitation import imitation_loss, kept_features, noise_generator
from vla_rl.policy import Policy
from vla_rl.types import Bools, Demonstration, EpisodeSpec


def held_out(specs: Sequence[EpisodeSpec], share: float, seed: int) -> Bools:
    """Choose the demonstrations to hold out for validation, always all those of a start.

    Steps of one episode are alike, and so are episodes from one start: divided between both sides,
    they would make the held-out loss measure memorisation.

    Args:
        specs: Start of each of n demonstrations.
        share: Share of each task's starts to hold out, in [0, 1); at least one start is on either
            side. 0 holds out none.
        seed: Seed of the draw.

    Returns:
        ``[n]`` bool, true for held-out demonstrations.

    Raises:
        ValueError: If there is only one start of a task.
    """
    if not share:
        return np.zeros(len(specs), bool)
    starts: dict[str, list[int]] = {}
    for spec in specs:
        of_task = starts.setdefault(spec.task.id, [])
        if spec.seed not in of_task:
            of_task.append(spec.seed)
    drawn: set[tuple[str, int]] = set()
    rng = seeding.generator(seed, "held-out starts")
    for task, seeds in starts.items():
        if len(seeds) < 2:
            raise ValueError(
                f"validation_share {share} needs demonstrations of {task} from at least 2 starts, "
                "one to train on and one to hold out, but there is only 1: record more, or use "
                "validation_share 0"
            )
        count = min(max(round(share * len(seeds)), 1), len(seeds) - 1)
        drawn |= {(task, int(start)) for start in rng.permutation(seeds)[:count]}
    return np.array([(spec.task.id, spec.seed) in drawn for spec in specs])


class Split(NamedTuple):
    """Demonstrations to train on, and the held-out ones, if any."""

    learned: ChunkDataset
    held_out: ChunkDataset | None


def split(
    demonstrations: Sequence[Demonstration],
    chunk: int,
    share: float,
    seed: int,
    also: Sequence[Demonstration] = (),
) -> Split:
    """Divide demonstrations into chunks to train on and held-out chunks (:func:`held_out`).

    Args:
        demonstrations: The demonstrations to divide.
        chunk: Actions per chunk, H.
        share: Share of each task's starts to hold out.
        seed: Seed of the draw.
        also: Further demonstrations to train on, of which none is held out.

    Raises:
        ValueError: If there are no demonstrations, or too few to hold some out.
    """
    apart = held_out([d.spec for d in demonstrations], share, seed)
    learned, kept = (
        [d for d, is_apart in zip(demonstrations, apart, strict=True) if is_apart == side]
        for side in (False, True)
    )
    learned += also
    return Split(ChunkDataset(learned, chunk), ChunkDataset(kept, chunk) if kept else None)


@dataclass
class Best:
    """The lowest held-out loss so far.

    Attributes:
        loss: The loss.
        step: Gradient steps at which it was measured.
        waited: Evaluations since then.
        weights: Copies of the trained parameters, on the CPU.
    """

    loss: float
    step: int
    waited: int
    weights: list[Tensor]


class HeldOut:
    """The loss of held-out demonstrations, and the weights with the lowest one.

    Attributes:
        best: The lowest loss so far; None before the first evaluation.
    """

    def __init__(
        self, policy: Policy, data: ChunkDataset, batch_size: int, balance_tasks: bool, seed: int
    ) -> None:
        """Prepare evaluations; call this after freezing the parameters that are not trained.

        Args:
            policy: The policy that is trained.
            data: The held-out chunks.
            batch_size: Rows in memory at once.
            balance_tasks: Whether every task counts the same, rather than every action.
            seed: Seed of a head's noise, which is the same in every evaluation.
        """
        policy.remember(data.sentences)
        self._policy, self._data, self._seed = policy, data, seed
        self._batch_size, self._balance_tasks = batch_size, balance_tasks
        self._features = kept_features(policy, data, batch_size) if policy.caches else None
        self.best: Best | None = None

    def loss(self) -> float:
        """Mean loss over all rows, computed as in training but without augmentation."""
        noise = noise_generator(self._seed, "noise of validation")
        losses, counts = [], []
        with torch.no_grad():
            for of_task in self._data.rows_by_task():
                total = count = 0.0
                for rows in np.array_split(of_task, -(-len(of_task) // self._batch_size)):
                    batch = self._data.take(rows)
                    features = None if self._features is None else self._features[rows]
                    actions = float(batch.mask.sum())
                    total += actions * float(imitation_loss(self._policy, batch, features, noise))
                    count += actions
                losses.append(total / count)
                counts.append(count)
        return float(np.average(losses, weights=None if self._balance_tasks else counts))

    def look(self, step: int) -> float:
        """Measure the loss after gradient step ``step``; keep the weights if it is the lowest."""
        loss = self.loss()
        if self.best is None or loss < self.best.loss:
            # A copy, also where the parameters are on the CPU.
            weights = [p.detach().to("cpu", copy=True) for p in self._trained()]
            self.best = Best(loss, step, 0, weights)
        else:
            self.best.waited += 1
        return loss

    def is_stuck(self, patience: int) -> bool:
        """Whether ``patience`` evaluations in a row were no better; never if that is 0."""
        return bool(patience and self.best is not None and self.best.waited >= patience)

    def take_best(self) -> None:
        """Put the best weights into the policy."""
        if self.best is None:
            return
        with torch.no_grad():
            for parameter, best in zip(self._trained(), self.best.weights, strict=True):
                parameter.copy_(best)

    def state_dict(self) -> dict[str, object]:
        """The best loss and weights; contains tensors."""
        return {"best": None if self.best is None else vars(self.best)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state written by :meth:`state_dict`."""
        self.best = None if state["best"] is None else Best(**state["best"])

    def _trained(self) -> list[Tensor]:
        groups = self._policy.groups()
        return [p for name in groups for p in groups[name] if p.requires_grad]
