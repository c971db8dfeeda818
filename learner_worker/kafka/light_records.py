"""Lighter record objects from aiokafka, for a process that reads millions: one of two patches of it.

aiokafka makes a dataclass of eleven fields of every record, and that was a twentieth of the time of an event,
which is read as two records: itself and its fact. The seven fields that the learner reads (`records.Record`),
in a struct that the garbage collector never visits, take less (measured, with unpacking: 1.3 µs a record
instead of 1.8).
"""

from typing import Any

import msgspec
from aiokafka.consumer.fetcher import PartitionRecords

from learner_worker.kafka.patching import replace_method
from learner_worker.kafka.records import Headers


class LightRecord(msgspec.Struct, gc=False):
    """What the learner reads of a consumer's record."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


def use_light_records() -> bool:
    """From now on every aiokafka consumer of this process gives light records; deserializers are ignored.

    Returns:
        False if this aiokafka is built differently: it goes on making its own records, which serve as well.
    """
    return replace_method(
        PartitionRecords, "_consumer_record", ["self", "tp", "record"], lambda _: _light_record
    )


def _light_record(_: PartitionRecords, tp: Any, record: Any) -> LightRecord:
    headers = record.headers
    return LightRecord(
        tp.topic,
        tp.partition,
        record.offset,
        record.timestamp,
        record.key,
        record.value,
        tuple(headers) if headers else (),
    )
