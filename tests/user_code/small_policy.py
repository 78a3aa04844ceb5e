"""A policy of a user: a module with ``Config`` and ``Policy``, here a variant of one that ships."""

from __future__ import annotations

from vla_rl.policies import tiny

Config = tiny.Config


class Policy(tiny.Policy):
    """The tiny policy under another name."""
