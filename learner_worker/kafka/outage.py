"""Tracks outages and refusals of Kafka: logs each once when it begins and once when it ends.

An outage passes by itself. A refusal, such as a missing right, stays until somebody changes something: the
worker keeps trying, because that may be soon, and says what is wrong.
"""

import time

import structlog

from learner_worker.errors import RefusedError
from learner_worker.refusals.denials import denial

_FIRST_PAUSE_SECONDS = 0.5  # most errors pass at once, as when a leader moves
_LONGEST_PAUSE_SECONDS = 4.0  # retries continue within seconds once Kafka is back
_log = structlog.get_logger("learner_worker.stream")


class Outage:
    """The outage state that the worker's loops share."""

    def __init__(self) -> None:
        self._failing: dict[str, int] = {}
        self._refused: dict[str, str] = {}
        self._since = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the outage began; 0.0 without one."""
        return time.monotonic() - self._since if self._failing else 0.0

    @property
    def failing(self) -> frozenset[str]:
        """The operations that fail at present."""
        return frozenset(self._failing)

    @property
    def refusals(self) -> list[str]:
        """What Kafka refuses at present, in sentences."""
        return sorted(set(self._refused.values()))

    def failed(self, what: str, error: BaseException) -> float:
        """Notes that an operation failed; returns the pause before its next attempt, in seconds.

        The pause doubles with every failure, up to a few seconds, so that work resumes soon after an outage.
        """
        refusal = denial(error)
        if refusal is not None:
            self._note_refusal(what, str(RefusedError(refusal)))
        elif not self._failing:
            _log.warning("kafka.away", noticed_by=what, error=first_line(error))
        if not self._failing:
            self._since = time.monotonic()
        self._failing[what] = self._failing.get(what, 0) + 1
        return self.pause_seconds(what)

    def pause_seconds(self, what: str) -> float:
        """The pause before the next attempt of an operation, in seconds; 0.0 if its last one succeeded."""
        failures = self._failing.get(what, 0)
        return min(_FIRST_PAUSE_SECONDS * 2.0 ** (failures - 1), _LONGEST_PAUSE_SECONDS) if failures else 0.0

    def _note_refusal(self, what: str, sentence: str) -> None:
        if sentence not in self._refused.values():
            _log.error("kafka.refused", noticed_by=what, reason=sentence)
        self._refused[what] = sentence

    def worked(self, what: str) -> None:
        """Notes that the same operation succeeded."""
        if what not in self._failing:
            return
        seconds = self.seconds
        del self._failing[what]
        if self._refused.pop(what, None) is not None:
            _log.info("kafka.accepted", noticed_by=what)
        elif not self._failing:
            _log.info("kafka.back", away_seconds=round(seconds, 1))


def first_line(error: BaseException) -> str:
    """An error's type and the first line of its message, for logs."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
