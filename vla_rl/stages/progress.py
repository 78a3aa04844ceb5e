"""The progress line of a stage."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable

from rich import progress as bars
from rich.console import Console


class Progress:
    """Progress of a stage of known length: a bar on a terminal, otherwise occasional lines.

    Args:
        title: Name of the stage.
        total: Number of items.
        done: Number of items that are done already.
        interval: Seconds between lines where standard output is not a terminal.
        console: Where to write; standard output by default.
        clock: Monotonic clock in seconds.
    """

    def __init__(
        self,
        title: str,
        total: int,
        done: int = 0,
        interval: float = 5.0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title, self.total, self.done = title, total, done
        self._console = console or Console()
        self._clock, self._interval = clock, interval
        self._began, self._first = clock(), done
        self._printed = self._began - interval
        self._text = ""
        self._bar = bars.Progress(
            bars.TextColumn("{task.description}", style="bold", markup=False),
            bars.BarColumn(bar_width=24),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            bars.TextColumn("{task.fields[left]}"),
            bars.TextColumn("{task.fields[text]}", style="cyan", markup=False),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, completed=done, text="", left="")

    def advance(self, text: str = "", count: int = 1) -> None:
        """Mark further items as done.

        Args:
            text: A short status, for instance ``success 0.62``.
            count: Number of items.
        """
        self.done += count
        self._text = text
        left = f"{_clock_time(self.seconds_left())} left" if self.done < self.total else ""
        self._bar.update(self._task, completed=self.done, text=text, left=left)
        if self._bar.disable and self._clock() - self._printed >= self._interval:
            self._print(left)

    def seconds_left(self) -> float:
        """Estimated time left; infinite before the first item is done."""
        done = self.done - self._first
        return (self._clock() - self._began) / done * (self.total - self.done) if done else math.inf

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()
        if self._bar.disable:
            self._print(f"after {_clock_time(self._clock() - self._began)}")

    def _print(self, when: str) -> None:
        self._printed = self._clock()
        parts = [f"{self.title} {self.done} of {self.total}", when, self._text]
        line = ", ".join(filter(None, parts))
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _clock_time(seconds: float) -> str:
    if math.isinf(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Tally:
    """Running success by task (completed share of a sequence), for the progress line."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._outcomes: dict[str, list[float]] = defaultdict(list)

    def __call__(self, task: str, share: float) -> None:
        """Count one episode."""
        self._outcomes[task].append(share)
        self._progress.advance(self.text)

    @property
    def text(self) -> str:
        """Success so far by task, or over all tasks if there are many."""
        if len(self._outcomes) > 4:
            every = [s for outcomes in self._outcomes.values() for s in outcomes]
            return f"done {sum(every) / len(every):.2f}"
        return "  ".join(f"{t} {sum(o) / len(o):.2f}" for t, o in sorted(self._outcomes.items()))
