"""A record from Kafka, and how one is rerouted or made a dead letter."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

from learner_worker.contract.fields import MAX_RECORD_BYTES
from learner_worker.contract.headers import AUTHORIZATION, Headers
from learner_worker.contract.topics import HOP_HEADER, EventKind, TopicName
from learner_worker.errors import RecordError

T = TypeVar("T")
TRUNCATED_BYTES = 64 * 1024  # enough to recognize the value, and any broker accepts it
SHORT_BYTES = 1024  # enough to recognize the value, where a topic takes only short records
_OWN_PREFIXES = ("learner-", "kafka_dlt-")
TRUNCATED_HEADER = "learner-truncated"
REASON_HEADER = "learner-reason"
ORIGIN_HEADER = "learner-origin"
EVENT_KINDS: Mapping[bytes, EventKind] = {
    b"bid-placed": "bid-placed",
    b"auction-closed": "auction-closed",
    b"task-finished": "task-finished",
}
"""The values of the header that marks a rerouted event."""


class Record(Protocol):
    """The fields of a consumer's record that the learner reads."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...


class Unreadable(NamedTuple):
    """A record that cannot be decoded: only its offset is known."""

    topic: str
    partition: int
    offset: int
    timestamp: int = -1
    key: bytes | None = None
    value: bytes | None = None
    headers: Headers = ()


class Outgoing(NamedTuple):
    """A record to write. A `partition` of None is chosen by the key; times are in milliseconds."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int | None = None


def chunked(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Splits a sequence into chunks of at most `size` items, to be processed between two yields."""
    return (items[start : start + size] for start in range(0, len(items), size))


def place_of(record: Record) -> tuple[str, int, int]:
    """A record's topic, partition and offset."""
    return record.topic, record.partition, record.offset


def size_of(record: Record) -> int:
    """The bytes of a record's value and headers, which only Kafka's limits bound."""
    return len(record.value or b"") + sum(map(_header_bytes, record.headers))


def hop_of(record: Record) -> bytes | None:
    """The value of the header that marks a record as moved; None if it was not moved."""
    for name, value in reversed(record.headers):
        if name == HOP_HEADER:
            return value or b""
    return None


def moved(record: Record, topic: TopicName, partition: int, kind: EventKind) -> Outgoing:
    """The record for its right partition, with its original record time."""
    headers = [*record.headers, (HOP_HEADER, kind.encode()), (ORIGIN_HEADER, _origin(record))]
    return Outgoing(topic, partition, record.key, record.value, headers, max(record.timestamp, 0))


def dead_letter(record: Record, topic: TopicName, error: RecordError, *, truncate: bool = False) -> Outgoing:
    """The dead letter of a record: its key, value, headers and reason, and its origin in Spring's names."""
    key, value = record.key, record.value
    # Headers about a dead letter's origin and truncation may come from the learner only.
    headers = [
        (name, _length(content) if name.lower() == AUTHORIZATION else content)
        for name, content in record.headers
        if name != TRUNCATED_HEADER and not name.startswith("kafka_dlt-")
    ]
    if value is not None and (truncate or len(value) > MAX_RECORD_BYTES):
        headers = headers if sum(map(_header_bytes, headers)) <= TRUNCATED_BYTES else []
        headers.append((TRUNCATED_HEADER, str(len(value)).encode()))
        value = value[:TRUNCATED_BYTES]
        key = None if key is None else key[:TRUNCATED_BYTES]
    headers += [
        (REASON_HEADER, error.reason.encode()),
        ("learner-message", str(error).encode()),
        (ORIGIN_HEADER, _origin(record)),
        ("kafka_dlt-original-topic", record.topic.encode()),
        ("kafka_dlt-original-partition", struct.pack(">i", record.partition)),
        ("kafka_dlt-original-offset", struct.pack(">q", record.offset)),
        ("kafka_dlt-original-timestamp", struct.pack(">q", record.timestamp)),
        ("kafka_dlt-exception-fqcn", f"{type(error).__module__}.{type(error).__qualname__}".encode()),
        ("kafka_dlt-exception-message", str(error).encode()),
    ]
    # A record needs a key or a value: a tombstone without a key gets an empty value.
    return Outgoing(topic, None, key, b"" if key is None and value is None else value, headers)


def shortened_dead_letter(dead: Outgoing) -> Outgoing | None:
    """A dead letter with only the beginning of its value and the learner's own headers; None if it is one."""
    value = dead.value or b""
    if len(value) <= SHORT_BYTES:
        return None
    headers = [(name, content) for name, content in dead.headers if name.startswith(_OWN_PREFIXES)]
    if all(name != TRUNCATED_HEADER for name, _ in headers):
        headers.append((TRUNCATED_HEADER, str(len(value)).encode()))
    key = None if dead.key is None else dead.key[:SHORT_BYTES]
    return dead._replace(key=key, value=value[:SHORT_BYTES], headers=headers)


def _length(token: bytes | None) -> bytes:
    """What stands for a token: whoever may read dead letters could use it."""
    return f"{len(token or b'')} bytes".encode()


def _header_bytes(header: tuple[str, bytes | None]) -> int:
    return len(header[0]) + len(header[1] or b"")


def _origin(record: Record) -> bytes:
    return f"{record.topic}/{record.partition}/{record.offset}".encode()
