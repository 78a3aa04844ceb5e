"""One script for each claim; results go to ``benchmarks/results``."""
