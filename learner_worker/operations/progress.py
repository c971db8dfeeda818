"""Reports the progress of a long read, in one line every few seconds."""

import time
from collections.abc import Callable
from typing import Protocol

_EVERY_SECONDS = 2.0  # often enough to be seen moving, seldom enough for a log


class Progress:
    """Reports a read of known length: offsets read, their rate, and the time left.

    Args:
        say: is called with every line.
    """

    def __init__(self, what: str, say: Callable[[str], None]) -> None:
        self._what = what
        self._say = say
        self._began = self._said = time.monotonic()
        self._first = 0

    def begin(self, first: int) -> None:
        """The read starts at this offset."""
        self._began = self._said = time.monotonic()
        self._first = first

    def at(self, position: int, until: int) -> None:
        """Notes the read's position; reports it if the last report is old enough."""
        now = time.monotonic()
        if now - self._said < _EVERY_SECONDS:
            return
        self._said = now
        done, seconds = position - self._first, max(now - self._began, 1e-3)
        left = (until - position) * seconds / done if done else 0.0
        self._say(
            f"{self._what}: {done:,} of {until - self._first:,} changelog records, "
            f"{done / seconds:,.0f} a second, {left:,.0f} s left"
        )


class RecordProgress:
    """Reports a number of records that are read in several pieces.

    Args:
        say: is called with every line.
    """

    def __init__(self, what: str, say: Callable[[str], None]) -> None:
        self._progress = Progress(what, say)
        self._read = self._total = 0

    def begin(self, total: int) -> None:
        """About so many records are to be read, from now on."""
        self._read, self._total = 0, total
        self._progress.begin(0)

    def advance(self, count: int) -> None:
        """Notes that `count` more are read."""
        self._read += count
        self._progress.at(self._read, max(self._read, self._total))


class StepProgress(Protocol):
    """Shows the progress of long steps."""

    def begin(self, step: str, total: int) -> None:
        """Begins a step of `total` items."""
        ...

    def advance(self, count: int) -> None:
        """Notes that `count` more items are done."""
        ...
