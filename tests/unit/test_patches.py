"""What is replaced in aiokafka: light records, closed connections, what a refused commit costs."""

import asyncio
from typing import Any

import pytest
import uvloop
from aiokafka import TopicPartition
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import IllegalGenerationError, KafkaConnectionError, KafkaError, UnknownMemberIdError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.admin import ApiVersionRequest
from aiokafka.protocol.commit import OffsetCommitResponse_v2
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import OffsetAndMetadata

from learner_worker.kafka.patches import (
    LightRecord,
    keep_member_ids,
    take_closed_for_broken,
    use_light_records,
)
from tests.support.batches import bytes_of

FIELDS = LightRecord.__struct_fields__
PLACE = TopicPartition("topic", 3)


REPLACED = (
    (PartitionRecords, "_consumer_record"),
    (AIOKafkaConnection, "send"),
    (GroupCoordinator, "_do_commit_offsets"),
)


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiokafka is as it was again after each test."""
    for owner, name in REPLACED:
        monkeypatch.setattr(owner, name, getattr(owner, name))


def unpacked() -> list[Any]:
    """Three records as a consumer takes them out of an answer."""
    batch = BatchBuilder(10_000, 0)
    batch.append(timestamp=1_000, key=b"k", value=b"v", headers=[("name", b"content"), ("empty", None)])
    batch.append(timestamp=1_001, key=None, value=b"", headers=[])
    batch.append(timestamp=1_002, key=b"gone", value=None, headers=[])
    records = MemoryRecords(bytes_of(batch))
    return list(PartitionRecords(PLACE, records, [], 0, None, None, True, READ_COMMITTED))


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


class RefusedMember(GroupCoordinator):  # type: ignore[misc] # aiokafka has no types
    """A member of the second generation, to whom the group answers a commit with an error."""

    def __init__(self, error: type[KafkaError]) -> None:
        self.group_id, self.coordinator_id = "group", 1
        self.member_id, self.generation = "member", 2
        self._rejoin_needed_fut = asyncio.get_running_loop().create_future()
        self._error = error

    async def _send_req(self, _request: Any) -> Any:
        return OffsetCommitResponse_v2([(PLACE.topic, [(PLACE.partition, self._error.errno)])])

    async def is_refused(self) -> None:
        """Commits, and is told to rejoin."""
        with pytest.raises(self._error):
            await self._do_commit_offsets(None, {PLACE: OffsetAndMetadata(1, "")})
        assert self._rejoin_needed_fut.done()


async def test_without_the_patch_a_refused_generation_costs_the_member_its_id() -> None:
    """What it is for: should this fail with another aiokafka, it is not needed any more."""
    member = RefusedMember(IllegalGenerationError)
    await member.is_refused()
    assert not member.member_id


async def test_a_member_whose_generation_is_refused_keeps_its_id() -> None:
    """It rejoins as the member that the group waits for; one that the group does not know joins anew."""
    assert keep_member_ids()
    member, unknown = RefusedMember(IllegalGenerationError), RefusedMember(UnknownMemberIdError)
    await member.is_refused()
    await unknown.is_refused()
    assert (member.member_id, member.generation) == ("member", 2)
    assert not unknown.member_id


def test_commits_of_an_aiokafka_that_is_built_differently_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on as it is."""

    async def other(self: object, offsets: object) -> object:
        return self, offsets

    monkeypatch.setattr(GroupCoordinator, "_do_commit_offsets", other)
    assert not keep_member_ids()
    assert GroupCoordinator._do_commit_offsets is other
