"""What is replaced in aiokafka: light records, and closed connections as broken ones on a worker's loop."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop
from aiokafka import TopicPartition
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.errors import KafkaConnectionError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.admin import ApiVersionRequest
from aiokafka.record.memory_records import MemoryRecords

from learner_worker.kafka.patches import LightRecord, take_closed_for_broken, use_light_records
from tests.support.batches import bytes_of

FIELDS = LightRecord.__struct_fields__


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """aiokafka as it is."""
    record, send = PartitionRecords._consumer_record, AIOKafkaConnection.send
    yield
    PartitionRecords._consumer_record, AIOKafkaConnection.send = record, send


def unpacked() -> list[Any]:
    """Three records as a consumer takes them out of an answer."""
    batch = BatchBuilder(10_000, 0)
    batch.append(timestamp=1_000, key=b"k", value=b"v", headers=[("name", b"content"), ("empty", None)])
    batch.append(timestamp=1_001, key=None, value=b"", headers=[])
    batch.append(timestamp=1_002, key=b"gone", value=None, headers=[])
    records = MemoryRecords(bytes_of(batch))
    partition = TopicPartition("topic", 3)
    return list(PartitionRecords(partition, records, [], 0, None, None, True, READ_COMMITTED))


def test_light_records_say_what_aiokafkas_own_say() -> None:
    """Field by field, with and without key, value and headers."""
    own = unpacked()
    assert use_light_records()
    light = unpacked()
    assert {type(record) for record in light} == {LightRecord}
    assert [[getattr(record, name) for name in FIELDS] for record in light] == [
        [getattr(record, name) for name in FIELDS] for record in own
    ]


def test_records_of_an_aiokafka_that_is_built_differently_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own records serve as well."""

    def other(self: object, record: object) -> object:
        return record

    monkeypatch.setattr(PartitionRecords, "_consumer_record", other)
    assert not use_light_records()
    assert PartitionRecords._consumer_record is other


async def _ask_after_the_close() -> None:
    """Sends on a connection whose transport is closed, before anybody was told."""
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1")
    async with server:
        host, port = server.sockets[0].getsockname()
        connection = AIOKafkaConnection(host, port)
        connecting = asyncio.ensure_future(connection.connect())
        while connection._writer is None:  # noqa: ASYNC110 (aiokafka has no event for it)
            await asyncio.sleep(0.01)
        connection._writer.transport.abort()
        await asyncio.sleep(0)
        try:
            await connection.send(ApiVersionRequest())
        finally:
            connecting.cancel()


def test_without_the_patch_the_error_is_none_that_aiokafka_knows() -> None:
    """What it is for: should this fail with another aiokafka or uvloop, it may not be needed any more."""
    with pytest.raises(RuntimeError, match="closed"):
        uvloop.run(_ask_after_the_close())


def test_a_closed_connection_is_a_broken_connection() -> None:
    """aiokafka's own tasks survive that, and connect again."""
    assert take_closed_for_broken()
    with pytest.raises(KafkaConnectionError):
        uvloop.run(_ask_after_the_close())


def test_connections_of_an_aiokafka_that_is_built_differently_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on as it is; the watchdog is there for what that leaves."""

    def other(self: object, request: object) -> object:
        return self, request

    monkeypatch.setattr(AIOKafkaConnection, "send", other)
    assert not take_closed_for_broken()
    assert AIOKafkaConnection.send is other
