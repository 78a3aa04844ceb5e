"""When an episode of a Gymnasium environment counts as a success: Gymnasium itself does not say."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

INFO_KEYS = ("success", "is_success")
CHOICES = (
    "success or is_success or any other key of info, terminated, reward>=X, return>=X, none "
    "(never a success, for rewards that need none)"
)


@dataclass(frozen=True)
class Success:
    """A rule for success.

    Attributes:
        source: What is looked at: a key of the step's info, the reward of the step, the return (the
            sum of rewards so far), whether the environment terminated, or nothing.
        key: Of info.
        threshold: That the reward or return must reach.
    """

    source: Literal["info", "reward", "return", "terminated", "none"]
    key: str = ""
    threshold: float = math.inf

    def met(self, info: Mapping[str, Any], reward: float, total: float, terminated: bool) -> bool:
        """Whether the task is solved after a step."""
        if self.source == "info":
            return bool(info.get(self.key, False))
        if self.source == "terminated":
            return terminated
        return (total if self.source == "return" else reward) >= self.threshold


def rule(text: str, env_id: str, info: Collection[str], threshold: float | None) -> Success:
    """The rule that a user wrote.

    ``auto`` takes a key of info that says so, else the return from which on Gymnasium's registry
    counts the environment as solved.

    Args:
        text: One of ``CHOICES``, or ``auto``.
        env_id: For messages.
        info: Keys of info after a step.
        threshold: The registry's, if there is one.

    Raises:
        ValueError: If the text is no rule, or ``auto`` finds none.
    """
    bound = re.fullmatch(r"(reward|return)\s*>=\s*(\S+)", text.strip())
    if bound is not None:
        return Success("reward" if bound[1] == "reward" else "return", threshold=_number(bound[2]))
    if text == "terminated":
        return Success("terminated")
    if text == "none":
        return Success("none")
    if text != "auto":
        if not text.isidentifier():
            raise ValueError(f"unknown success {text!r}; allowed: auto, {CHOICES}")
        return Success("info", text)
    for key in INFO_KEYS:
        if key in info:
            return Success("info", key)
    if threshold is not None:
        return Success("return", threshold=threshold)
    raise ValueError(
        f"gym:{env_id} does not say what success is: info has {_listed(info)} and Gymnasium's "
        f"registry no reward threshold. Choose --env.success: {CHOICES}"
    )


def missing(key: str, env_id: str, info: Collection[str]) -> ValueError:
    """An error for an episode that ended without the key of info."""
    return ValueError(
        f"success {key!r} was never in info during an episode of gym:{env_id}, which has "
        f"{_listed(info)}. Choose another --env.success: {CHOICES}"
    )


def _listed(info: Collection[str]) -> str:
    return ", ".join(sorted(info)) or "nothing"


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"success needs a number after >=, got {text!r}")
    return number
