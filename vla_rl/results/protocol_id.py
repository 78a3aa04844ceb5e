"""Names of evaluation protocols: a sentence of everything that changes the number.

For instance ``custom:metaworld:100x90+100steps:image_size=64:2tasks-1f3a5c7e``: its name, the
suite, starts of each task and horizons in the order of the sorted task ids (one number if all are
equal), the suite's settings, the tasks, and an instruction that is not their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CUSTOM = "custom"
"""Name of whatever is no protocol of a suite."""


@dataclass(frozen=True)
class ProtocolId:
    """The parts of an id.

    Attributes:
        name: Of a protocol of the suite, or ``CUSTOM``.
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
        """The parts of an id of a suite.

        Raises:
            ValueError: If the text is no such id.
        """
        name, _, after = text.partition(f":{suite}:")  # a suite's name may have colons of its own
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
        """The same starts and tasks with other horizons; a named protocol is then no longer it.

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
