"""Ctrl-C and SIGTERM during training: end after the current step or iteration, and save it."""

from __future__ import annotations

import signal


class Interruption:
    """Ctrl-C or SIGTERM asks for an end where it can be saved; a second one ends at once."""

    def __init__(self, talks: bool = True) -> None:
        self._talks = talks
        self._wanted = False

    def wanted(self) -> bool:
        """Whether there was a signal."""
        return self._wanted

    def __enter__(self) -> Interruption:
        signals = (signal.SIGINT, signal.SIGTERM)
        self._previous = {number: signal.signal(number, self._pressed) for number in signals}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def _pressed(self, number: int, frame: object) -> None:
        if self._wanted:
            raise KeyboardInterrupt
        self._wanted = True
        if self._talks:
            print("\nfinishing this step and saving it; Ctrl-C again ends at once", flush=True)
