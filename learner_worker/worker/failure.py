"""The failure that ends a worker, wherever it happens."""

import asyncio

import structlog

from learner_worker.errors import LearnerError
from learner_worker.kafka.outage import first_line

_log = structlog.get_logger("learner_worker.stream")


class WorkerFailure:
    """Holds the first failure; the reading loop waits for it beside its poll, and raises it."""

    def __init__(self) -> None:
        self._found: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def happened(self) -> "asyncio.Future[None]":
        """Is done when there is a failure."""
        return self._found

    def fail(self, error: BaseException) -> None:
        """Ends the worker with this error; later ones are dropped."""
        if self._found.done():
            return
        if not isinstance(error, LearnerError):
            _log.error("shards.failed", exc_info=error)
            error = LearnerError(f"unexpected: {first_line(error)}; the log has the traceback")
        self._found.set_exception(error)

    def raise_if_any(self) -> None:
        """Raises the failure, if there is one."""
        if self._found.done():
            self._found.result()
