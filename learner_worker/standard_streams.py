"""The standard streams: open from the start, and written to without ever stopping the work.

A reader may go away (`| head -1`), stand still, or never have been there (`2>&-`), and a disk may be full.
"""

import atexit
import errno
import io
import os
import queue
import select
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_MAX_PENDING: Final = 4_000
"""Log lines that wait for a reader: a minute's worth during an outage, in about a megabyte."""
_LAST_LINES_SECONDS: Final = 1.0
"""Time limit for the last lines at the end: a reader that needs longer has stopped reading."""
_LONGEST_LINE: Final = 2**16
"""Bytes that are passed on as one piece: longer lines may be torn where something is lost."""
_STDOUT: Final = 1  # by POSIX
_STDERR: Final = 2  # by POSIX


class TolerantOutput(io.RawIOBase):
    """A descriptor to write to: what it does not take is lost instead of raising an error.

    Attributes:
        failure: the first error, if any.
        lost: how many writes were lost.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.failure: OSError | None = None
        self.lost = 0

    def writable(self) -> bool:
        """Whether it can be written to: always."""
        return True

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether a terminal shows it."""
        return os.isatty(self._descriptor)

    def write(self, data: "ReadableBuffer", /) -> int:
        """Writes all of the data, or counts it as lost; returns its length."""
        content = bytes(data)
        self._write_or_lose(content)
        return len(content)

    def raise_if_full(self) -> None:
        """Raises the first error, unless it was that nobody reads any more."""
        if self.failure is not None and self.failure.errno != errno.EPIPE:
            raise self.failure

    def _write_or_lose(self, content: bytes) -> None:
        try:
            _write_all(self._descriptor, content)
        except OSError as error:
            self.failure = self.failure or error
            self._lose()

    def _lose(self) -> None:
        self.lost += 1


class BackgroundOutput(TolerantOutput):
    """Writes in a thread of its own, so that a reader that stands still does not block the event loop.

    Args:
        on_lost: is called for each write that is lost, in either thread.
    """

    def __init__(self, descriptor: int, on_lost: Callable[[], None]) -> None:
        super().__init__(descriptor)
        self._on_lost = on_lost
        self._pending: queue.Queue[bytes] = queue.Queue(_MAX_PENDING)
        threading.Thread(target=self._write_on, name="log", daemon=True).start()
        atexit.register(self.drain)

    def drain(self, seconds: float = _LAST_LINES_SECONDS) -> None:
        """Waits until everything is written or lost, for at most `seconds`."""
        with self._pending.all_tasks_done:
            self._pending.all_tasks_done.wait_for(lambda: not self._pending.unfinished_tasks, seconds)

    def _write_or_lose(self, content: bytes) -> None:
        try:
            self._pending.put_nowait(content)
        except queue.Full:
            self._lose()

    def _write_on(self) -> None:
        while True:
            super()._write_or_lose(self._pending.get())
            self._pending.task_done()

    def _lose(self) -> None:
        super()._lose()
        self._on_lost()


def open_missing() -> None:
    """Opens /dev/null in place of each standard stream that is closed.

    Otherwise the next file or connection gets its number, and receives what is printed.
    """
    for descriptor in (0, _STDOUT, _STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number is this one
    sys.stdin = sys.stdin or io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    sys.stdout = sys.stdout or text_on(TolerantOutput(_STDOUT))
    sys.stderr = sys.stderr or text_on(TolerantOutput(_STDERR))


def tolerate_stderr() -> None:
    """Has errors of stderr lose lines instead of ending the program."""
    sys.stderr = text_on(TolerantOutput(_STDERR), like=sys.stderr)


def tolerate_stdout() -> TolerantOutput:
    """Has errors of stdout lose lines instead of ending the program; returns what knows of them."""
    output = TolerantOutput(_STDOUT)
    if sys.stdout is sys.__stdout__:  # otherwise another program has redirected it
        sys.stdout = text_on(output, like=sys.stdout)
    return output


def write_stderr_in_background(on_lost: Callable[[], None]) -> BackgroundOutput:
    """Moves the writing of stderr to a thread of its own.

    Args:
        on_lost: is called for each line that is lost.
    """
    output = BackgroundOutput(_STDERR, on_lost)
    sys.stderr = text_on(output, like=sys.stderr)
    return output


def text_on(output: TolerantOutput, like: TextIO | None = None) -> io.TextIOWrapper:
    """A text stream that passes every line on as a whole.

    Args:
        like: has the encoding; UTF-8 without it.
    """
    encoding = "utf-8" if like is None else like.encoding
    buffer = io.BufferedWriter(output, _LONGEST_LINE)
    return io.TextIOWrapper(buffer, encoding, "backslashreplace", line_buffering=True)


def _write_all(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except OSError as error:
            if error.errno != errno.EAGAIN:  # as when another program has made the pipe non-blocking
                raise
            _wait_until_writable(descriptor)


def _wait_until_writable(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()
