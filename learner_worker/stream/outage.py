"""Kafka away: said once when it begins and once when it is over, whoever notices it first."""

import time

import structlog

_log = structlog.get_logger("learner_worker.stream")


class Outage:
    """What the worker's loops know together of Kafka's absence."""

    def __init__(self) -> None:
        self._failing: set[str] = set()
        self._since = 0.0

    @property
    def seconds(self) -> float:
        """How long Kafka has been away; 0 while it is there."""
        return time.monotonic() - self._since if self._failing else 0.0

    def is_noticed_by(self, what: str) -> bool:
        """Whether this is one of the things that do not work now."""
        return what in self._failing

    def failed(self, what: str, error: BaseException) -> None:
        """Something that needs Kafka did not work."""
        if not self._failing:
            self._since = time.monotonic()
            _log.warning("kafka.away", noticed_by=what, error=first_line(error))
        self._failing.add(what)

    def worked(self, what: str) -> None:
        """The same thing works again."""
        if what not in self._failing:
            return
        seconds = self.seconds
        self._failing.discard(what)
        if not self._failing:
            _log.info("kafka.back", away_seconds=round(seconds, 1))


def first_line(error: BaseException) -> str:
    """An error's type and the first line of its message, for a log."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
