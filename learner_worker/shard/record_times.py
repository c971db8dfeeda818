"""Record times that are far from their events' own times: seconds or microseconds sent for milliseconds."""

import time
from typing import Final

import structlog

from learner_worker.contract.times import Micros, format_time, record_micros
from learner_worker.kafka.records import Record
from learner_worker.observability import ShardInstruments

_LOG_SECONDS: Final = 60.0
"""Interval of the log lines of one topic: the metric counts every record."""
_log = structlog.get_logger("learner_worker.shard")


class RecordTimes:
    """Counts and logs events whose record time is more than the auction horizon from their own time."""

    def __init__(self, instruments: ShardInstruments) -> None:
        self._instruments = instruments
        self._logged: dict[str, float] = {}

    def note_off(self, record: Record, own: Micros) -> None:
        """Counts the record of an event with such an own time."""
        self._instruments.record_times_off.labels(record.topic).inc()
        if time.monotonic() - self._logged.get(record.topic, -_LOG_SECONDS) >= _LOG_SECONDS:
            self._logged[record.topic] = time.monotonic()
            _log.warning(
                "event.record_time_off",
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                record_time=format_time(record_micros(record.timestamp)),
                event_time=format_time(own),
                timestamp_ms=record.timestamp,
            )
