"""Collecting trajectories: the episode loop, its workers, and where the policy runs."""
