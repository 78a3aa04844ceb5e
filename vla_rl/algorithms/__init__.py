"""Algorithms: each file states only what sets it apart."""
