"""Runs that an earlier version began."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vla_rl import plugins


def with_net_of_today(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's ``config.json`` with the settings of its policy as they are named today."""
    made = dict(config)
    if isinstance(made.get("net"), dict) and made.get("network"):
        policy = plugins.load("policies", made["network"]).Policy
        upgraded = getattr(policy, "upgraded", None)  # a policy need not inherit ours
        made["net"] = made["net"] if upgraded is None else upgraded(made["net"])
    return made
