"""Reward models: pure functions of a trajectory and of how episodes end.

A module defines ``reward(trajectory, end) -> [T]`` and may say what it ``PAYS`` for: ``"outcome"``
(how the episode ended; the default), ``"steps"`` or ``"shaping"`` (see
:class:`vla_rl.episode_end.Reward`).
"""
