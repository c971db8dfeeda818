"""Patches of aiokafka: replaces two methods, each only if it has the parameters that this module expects.

- A record is a light struct instead of a dataclass of eleven fields.
- A request on a connection that has just closed raises KafkaConnectionError, also on uvloop.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import KafkaConnectionError

from learner_worker.contract.headers import Headers


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
    return _replace_method(
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
    return _replace_method(
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


def _replace_method(
    owner: type,
    name: str,
    parameters: Sequence[str],
    make: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> bool:
    """Replaces a method of a class by `make(method)`, for this process.

    Args:
        parameters: the names that the method's parameters must have, including `self`.

    Returns:
        False if the method is missing or has other parameters: it is then left unchanged.
    """
    method = getattr(owner, name, None)
    if method is None or list(inspect.signature(method).parameters) != list(parameters):
        return False
    setattr(owner, name, make(method))
    return True
