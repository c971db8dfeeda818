"""Patches of aiokafka: replaces two methods, each only if it has the parameters that this module expects.

- A record is a light struct instead of a dataclass of eleven fields.
- A request on a connection that has just closed raises KafkaConnectionError, also on uvloop.
"""

import functools
from typing import Any

import msgspec
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import KafkaConnectionError

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
