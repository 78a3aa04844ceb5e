"""Reward models: pure functions of a trajectory."""
