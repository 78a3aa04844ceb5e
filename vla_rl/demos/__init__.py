"""Recorded demonstrations: on disk, as chunks to imitate, and in formats of other projects."""
