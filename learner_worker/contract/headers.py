"""Header conventions: how each client framework names the reply's address, and what the reply carries.

| convention | correlation id | reply topic | reply partition |
|---|---|---|---|
| plain | `correlation_id` | `reply_to` | `reply_partition` |
| Spring, NestJS | `kafka_correlationId` | `kafka_replyTopic` | `kafka_replyPartition` |
| SmallRye | `REPLY_CORRELATION_ID` | `REPLY_TOPIC` | `REPLY_PARTITION` |
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from learner_worker.contract.suggestions import ReplyError
from learner_worker.contract.topics import TopicName
from learner_worker.errors import RefusedReplyError

Headers = Sequence[tuple[str, bytes | None]]
"""A record's headers: names may repeat, and a value may be null."""
HeaderConvention = Literal["plain", "spring", "smallrye"]
"""The frameworks' names for the headers of a request and its reply; NestJS shares Spring's."""
CONVENTIONS: Final[Mapping[HeaderConvention, str]] = {
    "plain": "any client, all headers text",
    "spring": "Spring Kafka and NestJS",
    "smallrye": "SmallRye Reactive Messaging",
}
"""Which clients use a convention."""

CORRELATION_ID: Final = "correlation_id"
REPLY_TO: Final = "reply_to"
REPLY_PARTITION: Final = "reply_partition"
DEADLINE_HEADER: Final = "deadline"
"""Of a request: after this time (RFC 3339) nobody waits for the reply."""
AUTHORIZATION: Final = "authorization"
"""Of a request, by every convention: `Bearer` and a token that proves who asks."""
ERROR_HEADER: Final = "learner-error"
"""On every error reply: the code, as text."""

TRACE_HEADERS: Final = ("traceparent", "tracestate")
"""The W3C's trace context. A request's is continued by its reply's, if the learner sends traces."""

MAX_CORRELATION_ID_BYTES: Final = 1024  # far above a UUID; it is copied into every reply
MAX_KEY_BYTES: Final = 64 * 1024
"""Of a request: its reply carries it, too, and has to be small enough for Kafka."""
_MAX_PARTITION = 2**31 - 1  # Kafka numbers partitions with an int32
_BINARY_PARTITION_BYTES = 4  # an int32, as Spring's header has it
_MAX_PARTITION_DIGITS = 10  # of the largest int32
_NEST_DISPOSED = ("kafka_nest-is-disposed", b"\x00")
_NEST_ERROR = "kafka_nest-err"

_Names = tuple[str, str, str]
_PLAIN: _Names = (CORRELATION_ID, REPLY_TO, REPLY_PARTITION)
_SPRING: _Names = ("kafka_correlationId", "kafka_replyTopic", "kafka_replyPartition")
_SMALLRYE: _Names = ("REPLY_CORRELATION_ID", "REPLY_TOPIC", "REPLY_PARTITION")
# The first convention that is present decides; plain is the last resort.
_BY_PREFERENCE: tuple[tuple[HeaderConvention, _Names], ...] = (
    ("spring", _SPRING),
    ("smallrye", _SMALLRYE),
    ("plain", _PLAIN),
)
_CORRELATION_NAMES: dict[HeaderConvention, str] = {
    convention: names[0] for convention, names in _BY_PREFERENCE
}
REQUEST_HEADERS: Final[Mapping[HeaderConvention, tuple[str, str, str]]] = dict(_BY_PREFERENCE)
"""A request's headers: correlation id, reply topic, reply partition. The first convention present counts."""


class ReplyAddress(msgspec.Struct, frozen=True, gc=False):
    """Where a reply goes, and the bytes by which the client finds the request that it answers."""

    convention: HeaderConvention
    correlation_id: bytes | None
    topic: TopicName
    partition: int | None


def header(headers: Headers, name: str) -> bytes | None:
    """The header's value. Of a duplicated header the last counts; a null value is an absent header."""
    return dict(headers).get(name)


def reply_address(headers: Headers, default_topic: TopicName) -> ReplyAddress:
    """Where the reply to a request with these headers goes; whether it may, the allow-list says.

    Raises:
        RefusedReplyError: a correlation id over 1 KiB, a reply topic that is no text, or a reply partition
            that is no number; the reason is `correlation-id`, `reply-topic` or `reply-partition`.
    """
    present = dict(headers)
    for convention, (correlation_name, topic_name, partition_name) in _BY_PREFERENCE:
        correlation_id = present.get(correlation_name)
        topic = present.get(topic_name)
        partition = present.get(partition_name)
        if correlation_id is not None or topic is not None or partition is not None:
            return ReplyAddress(
                convention,
                _short(correlation_id),
                default_topic if topic is None else _topic(topic),
                None if partition is None else _partition(partition),
            )
    return ReplyAddress("plain", None, default_topic, None)


def _short(correlation_id: bytes | None) -> bytes | None:
    if correlation_id is not None and len(correlation_id) > MAX_CORRELATION_ID_BYTES:
        raise RefusedReplyError(
            "correlation-id",
            f"{len(correlation_id)} bytes of correlation id; at most {MAX_CORRELATION_ID_BYTES} are echoed",
        )
    return correlation_id


def _topic(value: bytes) -> TopicName:
    if not value:
        raise RefusedReplyError("reply-topic", "the reply topic's header is empty")
    try:
        return TopicName(value.decode())
    except UnicodeDecodeError as error:
        raise RefusedReplyError("reply-topic", "the reply topic's header is not UTF-8") from error


def _partition(value: bytes) -> int:
    """All ASCII digits is text, else four bytes is a big-endian int: both within a signed 32-bit int."""
    if value.isdigit():
        digits = value.lstrip(b"0")
        partition = int(digits or b"0") if len(digits) <= _MAX_PARTITION_DIGITS else -1
    elif len(value) == _BINARY_PARTITION_BYTES:
        partition = int.from_bytes(value, "big", signed=True)
    else:
        partition = -1
    if not 0 <= partition <= _MAX_PARTITION:
        raise RefusedReplyError(
            "reply-partition",
            f"the reply partition's header {value[:32]!r} is neither digits nor a 4-byte int",
        )
    return partition


def reply_headers(address: ReplyAddress, *, error: ReplyError | None) -> list[tuple[str, bytes]]:
    """The headers of a reply, by the request's convention; the correlation id's bytes are echoed verbatim."""
    headers: list[tuple[str, bytes]] = []
    if address.correlation_id is not None:
        headers.append((_CORRELATION_NAMES[address.convention], address.correlation_id))
    if address.convention == "spring":
        headers.append(_NEST_DISPOSED)
        if error is not None:
            headers.append((_NEST_ERROR, _text(f"{error.code}: {error.message}")))
    if error is not None:
        headers.append((ERROR_HEADER, _text(error.code)))
    return headers


def _text(value: str) -> bytes:
    return value.encode(errors="replace")


def request_headers(
    correlation_id: str, reply_topic: str, reply_partition: int | None, token: str | None = None
) -> list[tuple[str, bytes]]:
    """The headers of a request by the plain convention; without a partition the replies' keys decide."""
    headers = [(CORRELATION_ID, correlation_id.encode()), (REPLY_TO, reply_topic.encode())]
    if reply_partition is not None:
        headers.append((REPLY_PARTITION, str(reply_partition).encode()))
    if token is not None:
        headers.append((AUTHORIZATION, f"Bearer {token}".encode()))
    return headers
