"""Batches of recorded steps, each with the chunk of actions that follows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_rl.types import Bools, Demonstration, Floats, Observation


def chunk_targets(
    demonstrations: Sequence[Demonstration], chunk: int
) -> tuple[NDArray[np.int64], Bools]:
    """Find the actions that follow each recorded step.

    Args:
        demonstrations: Episodes, with n steps in total.
        chunk: H, the number of actions to look ahead.

    Returns:
        ``[n, H]`` row indices of the concatenated actions (past the end of an episode, its last row
        is repeated) and ``[n, H]`` bool, false past the end.

    Raises:
        ValueError: If the chunk is not positive or there is no demonstration.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    if not demonstrations:
        raise ValueError("there are no demonstrations to learn from")
    lengths = np.array([len(d) for d in demonstrations])
    end = np.repeat(np.cumsum(lengths), lengths)[:, None]
    rows = np.arange(lengths.sum())[:, None] + np.arange(chunk)
    return np.minimum(rows, end - 1), rows < end


class ChunkBatch(NamedTuple):
    """Rows of a :class:`ChunkDataset`.

    Attributes:
        obs: ``[B]`` observations.
        instruction: B instructions.
        actions: ``[B, H, A]`` float32.
        mask: ``[B, H]`` bool, false past the end of the episode.
        rows: ``[B]`` int, their row indices.
    """

    obs: Observation
    instruction: tuple[str, ...]
    actions: Floats
    mask: Bools
    rows: NDArray[np.int64]


class ChunkDataset:
    """Every recorded step with the chunk of actions that follows it; n rows.

    Args:
        demonstrations: Episodes with equal shapes of observations and actions.
        chunk: H, the number of actions to look ahead.

    Attributes:
        obs: ``[n]`` observations.
        actions: ``[n, H, A]`` float32.
        mask: ``[n, H]`` bool, false past the end of the episode.
        instruction: ``[n]`` int, index into ``sentences``.
        sentences: The unique instructions, in order of appearance.

    Raises:
        ValueError: As :func:`chunk_targets`.
    """

    def __init__(self, demonstrations: Sequence[Demonstration], chunk: int) -> None:
        index, self.mask = chunk_targets(demonstrations, chunk)
        said = [d.spec.task.instruction for d in demonstrations]
        self.sentences = tuple(dict.fromkeys(said))
        number = {sentence: i for i, sentence in enumerate(self.sentences)}
        self.instruction: NDArray[np.int64] = np.repeat(
            [number[sentence] for sentence in said], [len(d) for d in demonstrations]
        )
        self.obs = Observation.concatenate([d.obs for d in demonstrations])
        self.actions: Floats = np.concatenate([d.actions for d in demonstrations])[index]
        played = [d.spec.task.id for d in demonstrations]
        place = {task: i for i, task in enumerate(dict.fromkeys(played))}
        task = np.repeat([place[id] for id in played], [len(d) for d in demonstrations])
        self._by_task = np.argsort(task, kind="stable")
        self._counts = np.bincount(task)

    def __len__(self) -> int:
        return len(self.instruction)

    def sample(self, rng: np.random.Generator, batch: int, balance_tasks: bool) -> ChunkBatch:
        """Draw rows with replacement.

        Args:
            rng: Random generator.
            batch: B, the number of rows.
            balance_tasks: Whether every task is equally likely, rather than every row.
        """
        rows = rng.integers(len(self), size=batch)
        if balance_tasks:
            task = rng.integers(len(self._counts), size=batch)
            start = np.cumsum(self._counts) - self._counts
            rows = self._by_task[start[task] + rng.integers(self._counts[task])]
        return self.take(rows)

    def rows_by_task(self) -> list[NDArray[np.int64]]:
        """The rows of every task, in order of appearance."""
        return np.split(self._by_task, np.cumsum(self._counts)[:-1])

    def take(self, rows: NDArray[np.int64]) -> ChunkBatch:
        """Return the given rows ``[B]``."""
        return ChunkBatch(
            obs=self.obs[rows],
            instruction=tuple(self.sentences[i] for i in self.instruction[rows]),
            actions=self.actions[rows],
            mask=self.mask[rows],
            rows=rows,
        )
