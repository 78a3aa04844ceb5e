"""The commands of `vla-rl`, one module each: a dataclass `Command` with a `run` method."""
