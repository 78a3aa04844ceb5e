"""Demonstrations to and from the formats of other projects: LeRobotDataset v3 and Minari.

A format is a module ``<name>_format.py`` with ``open_source(name) -> Source`` for reading and an
``export`` for writing. What is read becomes a set of ours in :mod:`vla_rl.demos.exchange.adopt`.
"""
