"""Which members of a group to learn from (GFPO, arXiv 2508.09726), for one group at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Numbers = NDArray[np.floating]


def keep_best(score: Numbers, count: int) -> Bools:
    """The paper's rule: keep the ``count`` lowest scores; ties are broken by position.

    With binary success and failures that run to the time limit this keeps successes only, which
    leaves no contrast: use one of the other two rules for robots.

    Args:
        score: ``[G]`` lower is better.
        count: How many to keep.

    Returns:
        ``[G]`` bool.
    """
    kept = np.zeros(len(score), bool)
    kept[np.argsort(score, kind="stable")[:count]] = True
    return kept


def keep_stratified(score: Numbers, success: Bools, count: int) -> Bools:
    """Keep successes and failures in the group's proportion, choosing the best successes.

    ``round(count * failure rate)`` failures are kept, at least one if there is any, and so few that
    at least one success is kept if there is any. They are the first of the group, because an
    attribute means little for a failure. The rest are the successes with the lowest scores.

    Args:
        score: ``[G]`` lower is better.
        success: ``[G]`` bool.
        count: How many to keep.

    Returns:
        ``[G]`` bool.
    """
    failures = int((~success).sum())
    wanted = round(count * failures / len(score))
    wanted = min(max(wanted, min(failures, 1)), count - min(len(score) - failures, 1))
    kept = keep_best(np.where(success, score, np.inf), count - wanted) & success
    kept[np.flatnonzero(~success)[:wanted]] = True
    return kept


def keep_fast_successes(score: Numbers, success: Bools, count: int) -> Bools:
    """Keep every failure, and the ``count`` successes with the lowest scores.

    Meant for advantages that were normalised over the whole group: dropping the slow successes then
    leaves the advantages of the fast ones unchanged.
    """
    return (keep_best(np.where(success, score, np.inf), count) & success) | ~success


def adaptive_size(
    mean_reward: float, history: Numbers, sizes: tuple[int, int, int, int], ready: int
) -> int:
    """Number of members to keep of a group, by the difficulty of its start (GFPO, algorithm 2).

    Args:
        mean_reward: Mean return of the group; it must already be in the history.
        history: ``[M]`` mean returns of the groups seen so far.
        sizes: Numbers for very hard, hard, medium and easy groups: those below the first, second
            and third quartile of the history, and the rest. A tie counts as the easier one.
        ready: With fewer groups in the history, the number for very hard groups is used.
    """
    if len(history) < ready:
        return sizes[0]
    quartiles = np.percentile(history, (25, 50, 75))
    return sizes[int(np.searchsorted(quartiles, mean_reward, side="right"))]
