"""Light records say what aiokafka's own say."""

from collections.abc import Iterator
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from learner_worker.kafka.light_records import LightRecord, use_light_records

FIELDS = LightRecord.__struct_fields__


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """aiokafka as it is."""
    own = PartitionRecords._consumer_record
    yield
    PartitionRecords._consumer_record = own


def unpacked() -> list[Any]:
    """Three records as a consumer takes them out of an answer."""
    batch = BatchBuilder(10_000, 0)
    batch.append(timestamp=1_000, key=b"k", value=b"v", headers=[("name", b"content"), ("empty", None)])
    batch.append(timestamp=1_001, key=None, value=b"", headers=[])
    batch.append(timestamp=1_002, key=b"gone", value=None, headers=[])
    records = MemoryRecords(bytes(batch._build()))
    partition = TopicPartition("topic", 3)
    return list(PartitionRecords(partition, records, [], 0, None, None, True, READ_COMMITTED))


def test_they_say_the_same() -> None:
    own = unpacked()
    assert use_light_records()
    light = unpacked()
    assert {type(record) for record in light} == {LightRecord}
    assert [[getattr(record, name) for name in FIELDS] for record in light] == [
        [getattr(record, name) for name in FIELDS] for record in own
    ]


def test_an_aiokafka_that_is_built_differently_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(self: object, record: object) -> object:
        return record

    monkeypatch.setattr(PartitionRecords, "_consumer_record", other)
    assert not use_light_records()
    assert PartitionRecords._consumer_record is other
