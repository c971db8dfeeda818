"""How a process that runs replicas is told to stop, and how long it may take."""

import asyncio
import os
import threading
import time
from typing import Final

import structlog

from learner_worker import signals

STOP_SECONDS: Final = 25.0
"""Time limit from the signal to the last checkpoint: below the 30 seconds that Kubernetes waits for."""
CLOSE_SECONDS: Final = 15.0
"""Time limit for closing files and Kafka clients after that: three times a client's own limit."""
_END_SECONDS = 5.0
"""Time limit for the rest, as for threads of files on a disk that hangs: then the process ends by force."""
_TELL_BEFORE_END_SECONDS = 0.5
"""How long the thread that writes the log gets before that."""
_log = structlog.get_logger("learner_worker.replica")


def stop_on_signals(stopping: asyncio.Event) -> None:
    """Has the first signal stop this process, and the next one end it at once."""
    loop = asyncio.get_running_loop()
    numbers = signals.wanted_signals()

    def stop() -> None:
        for each in numbers:
            loop.remove_signal_handler(each)
        signals.end_on_next_signal(numbers)
        stop_within_limits(stopping)

    for each in numbers:
        loop.add_signal_handler(each, stop)


def stop_within_limits(stopping: asyncio.Event) -> None:
    """Sets `stopping`; the process ends by force if that does not end it."""
    if not stopping.is_set():
        end_by_force_after(STOP_SECONDS + CLOSE_SECONDS + _END_SECONDS)
        stopping.set()


def end_by_force_after(seconds: float) -> None:
    """Ends the process if stopping takes longer: not even a blocked event loop or a thread holds it up."""

    def end() -> None:
        _log.error("worker.ended_by_force", seconds=seconds)
        time.sleep(_TELL_BEFORE_END_SECONDS)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
