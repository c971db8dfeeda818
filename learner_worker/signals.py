"""Signals that stop the program: before it is imported, and after it was asked to stop.

Process 1 of a container ignores every signal that has no handler, so a handler is installed first of all.
"""

import os
import signal
import sys
from collections.abc import Iterable
from types import FrameType
from typing import Final

STOP_SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
)
_FIRST_PROCESS: Final = 1  # the number of a container's own process
_SIGNALLED: Final = 128
"""Added to a signal's number, this is the exit code that shells report for it."""


def wanted_signals() -> list[signal.Signals]:
    """The signals that stop the program: those that its parent has it ignore (`nohup`) are left alone."""
    return [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


def end_on_signals() -> None:
    """Has a signal end the process at once, until the program handles signals itself."""
    for number in wanted_signals():
        signal.signal(number, _end)


def interrupt_by_keyboard() -> None:
    """Has Ctrl-C raise KeyboardInterrupt again: the program is imported and cleans up."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def end_on_next_signal(numbers: Iterable[signal.Signals]) -> None:
    """Has the next of these signals end the process at once, even if the event loop is blocked."""
    for number in numbers:
        signal.signal(number, _end if os.getpid() == _FIRST_PROCESS else signal.SIG_DFL)


def runs_a_replica() -> bool:
    """Whether the command is `run`: stopped before it has begun, it has nothing to make durable."""
    return sys.argv[1:2] == ["run"]


def _end(number: int, _frame: FrameType | None) -> None:
    if runs_a_replica():
        os._exit(0)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(_SIGNALLED + number)
