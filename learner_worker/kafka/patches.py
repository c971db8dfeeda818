"""Patches of aiokafka: replaces three methods, each only if it has the parameters that this module expects.

- A record is a light struct instead of a dataclass of eleven fields.
- A request on a connection that has just closed raises KafkaConnectionError, also on uvloop.
- A member whose commit is refused for its generation keeps its id.
"""

import functools
from typing import Any

import msgspec
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import IllegalGenerationError, KafkaConnectionError

from learner_worker.contract.headers import Headers
from learner_worker.lifecycle import replace_method


class LightRecord(msgspec.Struct, gc=False):
    """The fields of a consumer's record that the learner reads; the garbage collector never visits it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


def use_light_records() -> bool:
    """Makes every consumer of this process return light records; deserializers are ignored.

    Returns:
        False if this aiokafka is built differently: it keeps its own records, which work as well.
    """
    return replace_method(
        PartitionRecords, "_consumer_record", ["self", "tp", "record"], lambda _: _light_record
    )


def take_closed_for_broken() -> bool:
    """Makes a request on a closed connection raise KafkaConnectionError, in every client.

    uvloop raises RuntimeError for a write to a transport that has just closed, where asyncio's own loop is
    silent. aiokafka does not treat that as a broken connection: it ends the client's metadata task, and the
    client makes no further progress. A broker that is starting accepts a connection and drops it.

    Returns:
        False if this aiokafka is built differently: it is left unchanged.
    """
    return replace_method(
        AIOKafkaConnection, "send", ["self", "request", "expect_response"], _translating_closed
    )


def keep_member_ids() -> bool:
    """Makes a member whose commit is refused for its generation rejoin under its id, in every consumer.

    Such an answer comes only to a member that the group knows; Kafka's own client keeps the id, too.
    aiokafka drops it and joins as a new member, while the group waits for the old one: until its session
    times out, and noida-db then still waits for it as the leader. Kafka takes a commit of the last generation
    until all members have rejoined, but noida-db refuses it as soon as one joins.

    Returns:
        False if this aiokafka is built differently: it is left unchanged.
    """
    return replace_method(
        GroupCoordinator, "_do_commit_offsets", ["self", "assignment", "offsets"], _keeping_member_id
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


def _translating_closed(send: Any) -> Any:
    @functools.wraps(send)
    def translating(connection: AIOKafkaConnection, *arguments: Any, **named: Any) -> Any:
        try:
            return send(connection, *arguments, **named)
        except RuntimeError as error:
            connection.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"the connection is closed: {error}") from error

    return translating


def _keeping_member_id(commit: Any) -> Any:
    @functools.wraps(commit)
    async def keeping(coordinator: GroupCoordinator, *arguments: Any, **named: Any) -> None:
        member_id, generation = coordinator.member_id, coordinator.generation
        try:
            await commit(coordinator, *arguments, **named)
        except IllegalGenerationError:  # aiokafka has dropped both, and is about to rejoin
            coordinator.member_id, coordinator.generation = member_id, generation
            raise

    return keeping
