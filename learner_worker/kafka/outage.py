"""Tracks outages of Kafka: logs each once when it begins and once when it ends."""

import time

import structlog

_FIRST_PAUSE_SECONDS = 0.5  # most errors pass at once, as when a leader moves
_LONGEST_PAUSE_SECONDS = 4.0  # retries continue within seconds once Kafka is back
_log = structlog.get_logger("learner_worker.stream")


class Outage:
    """The outage state that the worker's loops share."""

    def __init__(self) -> None:
        self._failing: dict[str, int] = {}
        self._since = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the outage began; 0.0 without one."""
        return time.monotonic() - self._since if self._failing else 0.0

    @property
    def failing(self) -> frozenset[str]:
        """The operations that fail at present."""
        return frozenset(self._failing)

    def failed(self, what: str, error: BaseException) -> float:
        """Notes that an operation failed; returns the pause before its next attempt, in seconds.

        The pause doubles with every failure, up to a few seconds, so that work resumes soon after an outage.
        """
        if not self._failing:
            self._since = time.monotonic()
            _log.warning("kafka.away", noticed_by=what, error=first_line(error))
        failures = self._failing.get(what, 0)
        self._failing[what] = failures + 1
        return float(min(_FIRST_PAUSE_SECONDS * 2**failures, _LONGEST_PAUSE_SECONDS))

    def worked(self, what: str) -> None:
        """Notes that the same operation succeeded."""
        if what not in self._failing:
            return
        seconds = self.seconds
        del self._failing[what]
        if not self._failing:
            _log.info("kafka.back", away_seconds=round(seconds, 1))


def first_line(error: BaseException) -> str:
    """An error's type and the first line of its message, for logs."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
