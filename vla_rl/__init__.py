"""Improve vision-language-action robot policies with reinforcement learning."""

__version__ = "0.1.0"
