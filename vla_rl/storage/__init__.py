"""Checkpoints, saved policies and the Hugging Face hub."""
