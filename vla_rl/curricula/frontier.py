"""Train most on half-mastered tasks, whose groups most often have contrast.

A group of G episodes with success rate p has contrast with probability ``1 - p^G - (1-p)^G``;
``p (1 - p)`` is its limit for small G and needs no G. Success rates (of a sequence, the completed
share) are running means of recent groups; a floor keeps drawing every task, so that forgetting is
noticed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vla_rl import seeding
from vla_rl.curricula.uniform import fresh_seed
from vla_rl.types import EpisodeSpec, Group, Task


@dataclass
class Curriculum:
    """Draws task ``i`` with weight ``floor + 4 p_i (1 - p_i)``.

    Attributes:
        tasks: The tasks to train on.
        seed: Seed of the draws and of the range of starts.
        floor: Weight of a task that always or never succeeds; a half-mastered task has 1 more.
        momentum: Weight of the past in the running success rate, per group.
    """

    tasks: Sequence[Task]
    seed: int = 0
    floor: float = 0.15
    momentum: float = 0.9
    drawn: int = 0
    success: dict[str, float] = field(default_factory=dict)

    def sample(self, count: int) -> list[EpisodeSpec]:
        """See :class:`vla_rl.curricula.Curriculum`."""
        rate = np.array([self.success.get(task.id, 0.5) for task in self.tasks])
        weight = self.floor + 4 * rate * (1 - rate)
        # Seeded by the number of starts so far, so that a resumed run draws the same starts.
        rng = seeding.generator(self.seed, "frontier", self.drawn)
        picks = _systematic(weight / weight.sum(), count, rng)
        specs = [
            EpisodeSpec(self.tasks[pick], fresh_seed(self.seed, self.drawn + index))
            for index, pick in enumerate(picks)
        ]
        self.drawn += count
        return specs

    def update(self, groups: Iterable[Group]) -> None:
        """Move each task's running success rate towards that of its groups."""
        for group in groups:
            task = group[0].spec.task.id
            rate = sum(t.share_done for t in group) / len(group)
            old = self.success.get(task, 0.5)
            self.success[task] = self.momentum * old + (1 - self.momentum) * rate

    def state_dict(self) -> dict[str, object]:
        """See :class:`vla_rl.curricula.Curriculum`."""
        return {"drawn": self.drawn, "success": dict(self.success)}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """See :class:`vla_rl.curricula.Curriculum`."""
        self.drawn = int(str(state["drawn"]))
        success = state["success"]
        assert isinstance(success, dict)
        self.success = {str(task): float(rate) for task, rate in success.items()}


def _systematic(share: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    """Systematic sampling: shares are exact to within one draw, with a random offset."""
    points = (np.arange(count) + rng.random()) / count
    picks = np.searchsorted(np.cumsum(share), points, side="right")
    return [int(p) for p in np.minimum(picks, len(share) - 1)]
