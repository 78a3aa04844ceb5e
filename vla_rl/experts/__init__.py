"""Experts that act on the true state of a simulator."""
