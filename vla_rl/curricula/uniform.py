"""Draws every task equally often, and every start only once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vla_rl.types import EpisodeSpec, Group, Task, seed_for


@dataclass
class Curriculum:
    """Round-robin over tasks; training seeds are counted up, so no start comes twice.

    Attributes:
        tasks: The tasks to train on.
        seed: Shifts the range of starts, so that runs with different seeds use different starts.
    """

    tasks: Sequence[Task]
    seed: int = 0
    drawn: int = 0

    def sample(self, count: int) -> list[EpisodeSpec]:
        """See :class:`vla_rl.curricula.Curriculum`."""
        specs = []
        for _ in range(count):
            task = self.tasks[self.drawn % len(self.tasks)]
            specs.append(EpisodeSpec(task, fresh_seed(self.seed, self.drawn)))
            self.drawn += 1
        return specs

    def update(self, groups: Iterable[Group]) -> None:
        """Does nothing: outcomes have no influence."""

    def state_dict(self) -> dict[str, object]:
        """See :class:`vla_rl.curricula.Curriculum`."""
        return {"drawn": self.drawn}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """See :class:`vla_rl.curricula.Curriculum`."""
        self.drawn = int(str(state["drawn"]))


STARTS_PER_RUN = 1_000_000


def fresh_seed(run_seed: int, drawn: int) -> int:
    """The training seed of the ``drawn``-th start of a run.

    Runs share no start unless their seeds are equal modulo 900.
    """
    return seed_for("train", (run_seed % 900) * STARTS_PER_RUN + drawn)
