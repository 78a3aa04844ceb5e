"""Experts that observe the true state of a simulator."""
