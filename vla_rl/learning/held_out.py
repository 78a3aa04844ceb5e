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
    """Which demonstrations are kept for validation: whole starts, never a part of one.

    Rows of one episode are alike, and so are episodes from one start: with some of them on either
    side, the held-out loss would only show how well the others were learned by heart.

    Args:
        specs: Start of each of n demonstrations.
        share: Of the starts of every task, in [0, 1); at least one start stays on either side. 0
            holds out none.
        seed: Of the draw.

    Returns:
        ``[n]`` bool.

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
                "one to learn from and one to hold out, and there is 1: record more, or use "
                "validation_share 0"
            )
        count = min(max(round(share * len(seeds)), 1), len(seeds) - 1)
        drawn |= {(task, int(start)) for start in rng.permutation(seeds)[:count]}
    return np.array([(spec.task.id, spec.seed) in drawn for spec in specs])


class Split(NamedTuple):
    """Demonstrations to learn from, and those that are held out, if any are."""

    learned: ChunkDataset
    held_out: ChunkDataset | None


def split(
    demonstrations: Sequence[Demonstration],
    chunk: int,
    share: float,
    seed: int,
    also: Sequence[Demonstration] = (),
) -> Split:
    """Chunks of demonstrations, whole starts of them held out (:func:`held_out`).

    Args:
        demonstrations: What is divided.
        chunk: H.
        share: To hold out.
        seed: Of the draw.
        also: More to learn from, of which nothing is held out.

    Raises:
        ValueError: If there is none, or too few to hold some out.
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
        step: Gradient steps that had been done.
        waited: Looks since then.
        weights: Of the trained parameters, copies on the CPU.
    """

    loss: float
    step: int
    waited: int
    weights: list[Tensor]


class HeldOut:
    """The loss of held-out demonstrations, and the weights that had the lowest.

    Attributes:
        best: None before the first look.
    """

    def __init__(
        self, policy: Policy, data: ChunkDataset, batch_size: int, balance_tasks: bool, seed: int
    ) -> None:
        """Prepare to look; what is trained and what is frozen must be settled.

        Args:
            policy: What is trained.
            data: Chunks that it does not learn from.
            batch_size: Rows in memory at once.
            balance_tasks: Whether every task counts the same, rather than every action.
            seed: Of a head's noise, which is the same at every look.
        """
        policy.remember(data.sentences)
        self._policy, self._data, self._seed = policy, data, seed
        self._batch_size, self._balance_tasks = batch_size, balance_tasks
        self._features = kept_features(policy, data, batch_size) if policy.caches else None
        self.best: Best | None = None

    def loss(self) -> float:
        """The loss of every row, as training has it but without augmentation or gradient."""
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
        """Measure the loss after a gradient step, and keep the weights if it is the lowest."""
        loss = self.loss()
        if self.best is None or loss < self.best.loss:
            # A copy even where they are on the CPU.
            weights = [p.detach().to("cpu", copy=True) for p in self._trained()]
            self.best = Best(loss, step, 0, weights)
        else:
            self.best.waited += 1
        return loss

    def is_stuck(self, patience: int) -> bool:
        """Whether so many looks in a row were no better; never with a patience of 0."""
        return bool(patience and self.best is not None and self.best.waited >= patience)

    def take_best(self) -> None:
        """Put the best weights into the policy."""
        if self.best is None:
            return
        with torch.no_grad():
            for parameter, best in zip(self._trained(), self.best.weights, strict=True):
                parameter.copy_(best)

    def state_dict(self) -> dict[str, object]:
        """What was best; with tensors."""
        return {"best": None if self.best is None else vars(self.best)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state written by :meth:`state_dict`."""
        self.best = None if state["best"] is None else Best(**state["best"])

    def _trained(self) -> list[Tensor]:
        groups = self._policy.groups()
        return [p for name in groups for p in groups[name] if p.requires_grad]
