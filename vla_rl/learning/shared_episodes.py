"""Episodes of several processes: only the one that played an episode has its images."""

from __future__ import annotations

from collections.abc import Sequence

from vla_rl.episode_end import EpisodeEnd
from vla_rl.learning.distributed import Ranks
from vla_rl.rewards import Reward
from vla_rl.types import Floats, Group


def from_afar(group: Group) -> Group:
    """A group as another process knows it."""
    return [t.from_afar() for t in group]


class SharedEpisodes:
    """Decisions that all ranks have to make alike about groups that one of them played."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    def view(self, group: Group) -> Group:
        """A group as every rank can see it."""
        return group if self._ranks.size == 1 else from_afar(group)

    def score(self, reward: Reward, groups: Sequence[Group], end: EpisodeEnd) -> list[list[Floats]]:
        """Rewards ``[T]`` of the groups that were played here; one that learns gets all.

        Raises:
            ValueError: If a reward that had no state has some afterwards.
        """
        # Alike on all ranks, as state is there from the start and follows from all groups.
        if reward.state_dict():
            shown = groups if reward.needs_images else [from_afar(group) for group in groups]
            return self._ranks.share(reward.score(self._ranks.gather(shown), end))
        paid = reward.score(groups, end) if groups else []
        if reward.state_dict():
            raise ValueError(
                f"state_dict() of {type(reward).__module__}.{type(reward).__name__} was empty "
                "before the first episode, and is not empty after it: return every key from the "
                "start, so that all processes know that this reward learns"
            )
        return paid
