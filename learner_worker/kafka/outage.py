"""Kafka away: said once when it begins and once when it is over, whoever notices it first."""

import time

import structlog

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 4.0
_log = structlog.get_logger("learner_worker.stream")


class Outage:
    """What the worker's loops know together of Kafka's absence."""

    def __init__(self) -> None:
        self._failing: dict[str, int] = {}
        self._since = 0.0

    @property
    def seconds(self) -> float:
        """How long Kafka has been away; 0 while it is there."""
        return time.monotonic() - self._since if self._failing else 0.0

    @property
    def failing(self) -> frozenset[str]:
        """What does not work now."""
        return frozenset(self._failing)

    def failed(self, what: str, error: BaseException) -> float:
        """Something that needs Kafka did not work; the seconds to wait before it is tried again.

        They double from failure to failure, up to a few seconds: whoever waits is back soon after Kafka.
        """
        if not self._failing:
            self._since = time.monotonic()
            _log.warning("kafka.away", noticed_by=what, error=first_line(error))
        failures = self._failing.get(what, 0)
        self._failing[what] = failures + 1
        return float(min(_FIRST_PAUSE_SECONDS * 2**failures, _LONGEST_PAUSE_SECONDS))

    def worked(self, what: str) -> None:
        """The same thing works again."""
        if what not in self._failing:
            return
        seconds = self.seconds
        del self._failing[what]
        if not self._failing:
            _log.info("kafka.back", away_seconds=round(seconds, 1))


def first_line(error: BaseException) -> str:
    """An error's type and the first line of its message, for a log."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
