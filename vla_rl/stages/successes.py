"""Episodes that a policy solved during a run, stored on disk for imitation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from vla_rl import seeding
from vla_rl.demos.demo_set import DemoSet
from vla_rl.rollout.collector import Collector
from vla_rl.types import Group, Trajectory

FIRST = 5
"""If none of this many episodes is solved again, the suite does not repeat episodes."""
FEW, MANY = 20, 0.1
"""Number of episodes from which on, and share of them up to which, episodes may be dropped."""


class Successes:
    """Stores solved episodes of every iteration (a :class:`vla_rl.demos.keeper.Keeper`).

    They are replayed to record an observation at every step, and become ordinary demonstrations
    with the executed actions, exploration noise included. An episode that is not solved when it is
    replayed is dropped; too many of those end the run.

    Attributes:
        demos: The demo set that they are appended to.
        retraced: Number of episodes that were replayed.
        unrepeated: Number of these that were not solved again.
    """

    def __init__(self, demos: DemoSet, collector: Collector, per_iteration: int, seed: int) -> None:
        """Store episodes in a set of demonstrations.

        Args:
            demos: The demo set to append to.
            collector: Replays episodes.
            per_iteration: Most episodes to keep per iteration, drawn at random; 0 for all.
            seed: Seed of the draw.
        """
        self.demos = demos
        self.retraced = self.unrepeated = 0
        self._collector, self._most, self._seed = collector, per_iteration, seed

    def keep(self, groups: Sequence[Group], iteration: int) -> None:
        """Append the solved episodes, at most the set number of them."""
        solved = [t for group in groups for t in group if t.success]
        if self._most and len(solved) > self._most:
            rng = seeding.generator(self._seed, "successes to keep", iteration)
            drawn = rng.choice(len(solved), self._most, replace=False)
            solved = [solved[i] for i in sorted(drawn)]
        self.add(solved)

    def add(self, solved: Sequence[Trajectory]) -> None:
        """Append solved episodes, except those that are not solved when they are replayed.

        Raises:
            ValueError: If those are more than a tenth, or all of the first few.
        """
        recorded = self._collector.retrace(solved)
        lost = [demonstration.spec for demonstration in recorded if not demonstration.success]
        self.retraced += len(recorded)
        self.unrepeated += len(lost)
        if lost:
            self._complain(f"{lost[0]} was solved, but not when its actions were played again")
        self.demos.append([demonstration for demonstration in recorded if demonstration.success])

    def _complain(self, what: str) -> None:
        share = f"{self.unrepeated} of {self.retraced} episodes so far"
        none_repeats = self.retraced >= FIRST and self.unrepeated == self.retraced
        if none_repeats or (self.retraced >= FEW and self.unrepeated > MANY * self.retraced):
            raise ValueError(
                f"{what}, as were {share}: this suite does not repeat episodes (`vla-rl check` "
                "finds out why), so successes cannot be kept"
            )
        warnings.warn(f"{what}; it is not kept, as were {share}", stacklevel=4)

    def metrics(self) -> dict[str, float]:
        """Numbers of stored and dropped episodes."""
        return {"keeper/kept": len(self.demos), "keeper/unrepeated": self.unrepeated}

    def state_dict(self) -> dict[str, object]:
        """Numbers of stored, replayed and dropped episodes."""
        return {
            "episodes": len(self.demos),
            "retraced": self.retraced,
            "unrepeated": self.unrepeated,
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore a saved state; episodes that were stored later are dropped."""
        self.demos.truncate(int(str(state["episodes"])))
        self.retraced = int(str(state["retraced"]))
        self.unrepeated = int(str(state["unrepeated"]))
