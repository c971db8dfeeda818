"""Tells in the log who is starting, when this replica becomes ready, and when it no longer is."""

import asyncio
import os
import socket
import time
from collections.abc import Mapping
from typing import Final, cast

import structlog

from learner_worker import __version__
from learner_worker.lifecycle import is_set_within
from learner_worker.settings import Settings
from learner_worker.worker.probes import Probe

_LOOK_SECONDS: Final = 0.25
"""Often enough that the line's time tells how long a start took."""
_log = structlog.get_logger("learner_worker.worker")


def log_start(log: structlog.stdlib.BoundLogger, settings: Settings, **more: object) -> None:
    """Says once who is running; a worker that is refused says only why."""
    log.info(
        "worker.starting",
        version=__version__,
        instance=settings.group_instance_id,
        host=socket.gethostname(),
        process=os.getpid(),
        **more,
    )


class ReadinessLog:
    """Asks the readiness probe and logs each change of its answer.

    Args:
        ready: the probe.
    """

    def __init__(self, ready: Probe) -> None:
        self._ready = ready
        self._since = time.monotonic()

    async def tell(self, stopping: asyncio.Event) -> None:
        """Logs changes until `stopping` is set."""
        was_ready = False
        while not await is_set_within(stopping, _LOOK_SECONDS):
            good, details = self._ready()
            if good != was_ready:
                self._log_change(details, good=good)
            was_ready = good

    def _log_change(self, details: Mapping[str, object], *, good: bool) -> None:
        now = time.monotonic()
        seconds, self._since = round(now - self._since, 1), now
        if good:
            shards = len(cast("list[int]", details["shards"]))
            _log.info("worker.ready", seconds=seconds, shards=shards)
        else:
            _log.info("worker.not_ready", ready_seconds=seconds, status=details["status"])
