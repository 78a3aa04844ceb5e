"""A suite without `make`."""

from vla_rl.envs.point_reach import Settings, spaces, tasks

__all__ = ["Settings", "spaces", "tasks"]
