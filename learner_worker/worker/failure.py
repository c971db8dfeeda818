"""The failure that ends a worker, whichever of its tasks it happens in."""

import asyncio

import structlog

from learner_worker.errors import LearnerError
from learner_worker.kafka.outage import first_line

_log = structlog.get_logger("learner_worker.stream")


class WorkerFailure:
    """Holds the first failure; the poll loop waits for it alongside its poll, and raises it."""

    def __init__(self) -> None:
        self._found: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def happened(self) -> "asyncio.Future[None]":
        """A future that is done once there is a failure."""
        return self._found

    def fail(self, error: BaseException) -> None:
        """Ends the worker with this error; later errors are dropped."""
        if self._found.done():
            return
        if not isinstance(error, LearnerError):
            _log.error("shards.failed", exc_info=error)
            error = LearnerError(f"unexpected error: {first_line(error)}; see the log for the traceback")
        self._found.set_exception(error)

    def raise_if_any(self) -> None:
        """Raises the failure, if there is one."""
        if self._found.done():
            self._found.result()
