"""Recorded demonstrations: on disk, as chunks to imitate, and in the formats of others."""
