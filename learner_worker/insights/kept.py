"""An answer that costs something, found once for everyone who asks at about the same time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

import structlog

from learner_worker.errors import LearnerError
from learner_worker.lifecycle import KAFKA_FAILURES
from learner_worker.refusals.denials import in_words

_EXPECTED: Final = (LearnerError, *KAFKA_FAILURES)
_log = structlog.get_logger("learner_worker.insights")
T = TypeVar("T")


class NotFoundYetError(LearnerError):
    """Nothing was found within the time that one may wait; finding goes on."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer within {seconds:g} s: look again in a moment")


class BrokenLookError(LearnerError):
    """The answer could not be found because of an unexpected error; it is tried again all the same."""

    def __init__(self, failure: BaseException) -> None:
        super().__init__(f"an unexpected error, which the log has in full: {failure!r}")


class KeptAnswer(Generic[T]):
    """What was found last; found anew for the first who asks when it is too old.

    Args:
        seconds: for how long an answer, or a failure, serves everyone.
        patience_seconds: for how long one who asks waits; finding is not interrupted.
    """

    def __init__(self, find: Callable[[], Awaitable[T]], *, seconds: float, patience_seconds: float) -> None:
        self._find = find
        self._seconds = seconds
        self._patience_seconds = patience_seconds
        self._finding: asyncio.Task[T] | None = None
        self._found_at = 0.0

    async def get(self) -> T:
        """The answer.

        Raises:
            NotFoundYetError: there is none within the time.
            LearnerError, KafkaError, OSError, TimeoutError: the answer could not be found.
        """
        if self._finding is None or self._is_too_old(self._finding):
            self._finding = asyncio.create_task(self._found(), name="find-answer")
            self._finding.add_done_callback(_retrieve)
        finding = self._finding
        await asyncio.wait([finding], timeout=self._patience_seconds)
        if not finding.done():
            raise NotFoundYetError(self._patience_seconds)
        failure = finding.exception()
        if failure is not None and not isinstance(failure, _EXPECTED):
            raise BrokenLookError(failure) from failure
        return finding.result()

    async def close(self) -> None:
        """Cancels the search for an answer."""
        if self._finding is not None:
            self._finding.cancel()
            await asyncio.wait([self._finding])

    def _is_too_old(self, finding: "asyncio.Task[T]") -> bool:
        return finding.done() and _now() - self._found_at > self._seconds

    async def _found(self) -> T:
        try:
            return await self._find()
        finally:
            self._found_at = _now()


async def or_problem(found: Awaitable[T]) -> T | str:
    """Returns what is found, or the reason why it is not."""
    try:
        return await found
    except _EXPECTED as error:
        return in_words(error)


def _retrieve(finding: "asyncio.Task[T]") -> None:
    """Retrieves a failure that perhaps nobody waits for any more; logs one that is a bug."""
    failure = None if finding.cancelled() else finding.exception()
    if failure is not None and not isinstance(failure, _EXPECTED):
        _log.error("look.failed", exc_info=failure)


def _now() -> float:
    return asyncio.get_running_loop().time()
