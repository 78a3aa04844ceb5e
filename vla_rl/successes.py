"""Episodes that a policy solved in a run, kept on disk to learn from them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vla_rl.collector import Collector
from vla_rl.demos import DemoSet
from vla_rl.types import Group, Trajectory


class Successes:
    """Keeps solved episodes of every iteration (a :class:`vla_rl.train.Keeper`).

    They are played again to record what was to be seen at every step, so they are demonstrations
    like any other: with the actions that were executed, exploration noise included.
    """

    def __init__(self, demos: DemoSet, collector: Collector, per_iteration: int, seed: int) -> None:
        """Keep into a set of demonstrations.

        Args:
            demos: Where they are appended.
            collector: Of the suite; plays them again.
            per_iteration: Most episodes to keep of an iteration, drawn at random; 0 for all.
            seed: Of the draw.
        """
        self.demos = demos
        self._collector, self._most, self._seed = collector, per_iteration, seed

    def keep(self, groups: Sequence[Group], iteration: int) -> None:
        """Append what was solved, or as much of it as is wanted."""
        solved = [t for group in groups for t in group if t.success]
        if self._most and len(solved) > self._most:
            rng = np.random.default_rng([self._seed, 4, iteration])
            drawn = rng.choice(len(solved), self._most, replace=False)
            solved = [solved[i] for i in sorted(drawn)]
        self.add(solved)

    def add(self, solved: Sequence[Trajectory]) -> None:
        """Append solved episodes.

        Raises:
            ValueError: If one is not solved when it is played again.
        """
        recorded = self._collector.retrace(solved)
        for demonstration in recorded:
            if not demonstration.success:
                raise ValueError(
                    f"{demonstration.spec} was solved, but not when its actions were played again: "
                    "this suite does not repeat episodes (`vla-rl check` finds out why), so "
                    "successes cannot be kept"
                )
        self.demos.append(recorded)

    def state_dict(self) -> dict[str, object]:
        """How many are kept."""
        return {"episodes": len(self.demos)}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Forget those that were kept later."""
        self.demos.truncate(int(str(state["episodes"])))
