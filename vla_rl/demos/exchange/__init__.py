"""Import and export of demonstrations in other formats: LeRobotDataset v3 and Minari.

A format is a module ``<name>_format.py`` with ``open_source(name) -> Source`` for reading and
``export`` for writing. :mod:`vla_rl.demos.exchange.importing` turns a source into a demo set.
"""
