"""Ctrl-C and SIGTERM during training: stop after the current step or iteration, and save it."""

from __future__ import annotations

import signal


class Interruption:
    """Turns a first Ctrl-C or SIGTERM into a request to stop; a second one stops at once."""

    def __init__(self, talks: bool = True) -> None:
        self._talks = talks
        self._wanted = False

    def wanted(self) -> bool:
        """Whether a signal was received."""
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
            print("\nfinishing and saving this step; Ctrl-C again stops at once", flush=True)
