"""Ids of evaluation protocols, which contain everything that determines a result.

For instance ``custom:metaworld:100x90+100steps:image_size=64:2tasks-1f3a5c7e``: the protocol's
name, the suite, starts per task and horizons in the order of the sorted task ids (one number if all
are equal), the suite's settings, the tasks, and the instruction if it is not the suite's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CUSTOM = "custom"
"""Name of an evaluation without a named protocol."""


@dataclass(frozen=True)
class ProtocolId:
    """The parts of an id.

    Attributes:
        name: Name of a protocol of the suite, or ``CUSTOM``.
        suite: Name of the suite.
        episodes: Starts of each task.
        horizons: Environment steps, in the order of the sorted task ids; one number stands for all.
        rest: Settings, tasks and instruction.
    """

    name: str
    suite: str
    episodes: int
    horizons: tuple[int, ...]
    rest: str

    @classmethod
    def of(cls, text: str, suite: str) -> ProtocolId:
        """Parse an id of a suite.

        Raises:
            ValueError: If the text is not such an id.
        """
        name, _, after = text.partition(f":{suite}:")  # a suite's name may contain colons
        counts, found, rest = after.partition("steps:")
        episodes, _, horizons = counts.partition("x")
        numbers = (episodes, *horizons.split("+"))
        if not found or not all(number.isdecimal() for number in numbers):
            raise ValueError(
                f"protocol {text!r} of suite {suite!r} does not say its horizon; expected an id "
                "like 'custom:SUITE:100x90steps:...', as `vla-rl eval` writes"
            )
        return cls(name, suite, int(episodes), tuple(map(int, numbers[1:])), rest)

    def with_horizons(self, horizons: Sequence[int]) -> ProtocolId:
        """The same starts and tasks with other horizons, no longer under a protocol's name.

        Args:
            horizons: Environment steps of each task, in the order of the sorted ids.
        """
        shown = shortest(horizons)
        name = self.name if shown == self.horizons else CUSTOM
        return ProtocolId(name, self.suite, self.episodes, shown, self.rest)

    def __str__(self) -> str:
        steps = "+".join(map(str, self.horizons))
        return f"{self.name}:{self.suite}:{self.episodes}x{steps}steps:{self.rest}"


def shortest(horizons: Sequence[int]) -> tuple[int, ...]:
    """One number if all are equal, else all of them."""
    return tuple(horizons[:1]) if len(set(horizons)) == 1 else tuple(horizons)
