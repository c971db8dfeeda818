"""Reads the dead-letter topic: dead letters, and the marks that record which ones are handled.

A mark is one more record of the topic, on its dead letter's partition and after it, so retention never
deletes a mark before its dead letter. Nothing is rewritten or deleted: readers apply the marks.
"""

import struct
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Self

from aiokafka import TopicPartition

from learner_worker.contract.headers import Headers
from learner_worker.contract.topics import HOP_HEADER, TopicName
from learner_worker.errors import ConfigurationError
from learner_worker.kafka.admin import connected
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.kafka.partition_reader import PartitionReader, reading_partitions
from learner_worker.kafka.polling import Gap
from learner_worker.kafka.records import (
    ORIGIN_HEADER,
    REASON_HEADER,
    TRUNCATED_HEADER,
    Outgoing,
    Record,
)

Handled = Literal["replayed", "dropped"]
SHOWN_BYTES = 200
"""Bytes of the value that a summary keeps: enough to recognize it, so that many fit into memory."""

_HANDLED_BY_HEADER: Mapping[str, Handled] = {"learner-replayed": "replayed", "learner-dropped": "dropped"}
_HEADER_OF_HANDLED: Mapping[Handled, str] = {handled: name for name, handled in _HANDLED_BY_HEADER.items()}
_INT32, _INT64 = struct.Struct(">i"), struct.Struct(">q")


class DeadLetterId(NamedTuple):
    """The partition and offset of a dead letter in its topic; written as `3/17`."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The dead letter that `PARTITION/OFFSET` names.

        Raises:
            ValueError: the text has another form.
        """
        partition, slash, offset = text.partition("/")
        if (
            not slash
            or not (partition + offset).isascii()
            or not (partition.isdecimal() and offset.isdecimal())
        ):
            raise ValueError(f"{text!r} is not PARTITION/OFFSET, for example 3/17")
        return cls(int(partition), int(offset))


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A decoded dead letter.

    Attributes:
        timestamp_ms: when it became a dead letter.
        topic, partition, offset: the origin of the original record.
        original_ms: the original's record time.
        hop: the event's kind, for an original that had been moved once.
        headers: the original's own headers.
        value_bytes: length of the value in the dead letter.
        truncated_bytes: length of the original value, if it was truncated; otherwise None.
    """

    id: DeadLetterId
    timestamp_ms: int
    topic: str
    partition: int
    offset: int
    original_ms: int
    reason: str
    message: str
    hop: bytes | None
    key: bytes | None
    value: bytes | None
    value_bytes: int
    headers: Headers
    truncated_bytes: int | None

    @property
    def origin(self) -> str:
        """The origin of the original record, for example `bid-placed/3/991`."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    def summary(self) -> "DeadLetter":
        """The dead letter with only the beginning of its value."""
        return replace(self, value=self.value and self.value[:SHOWN_BYTES], headers=())


@dataclass(frozen=True, slots=True)
class Filter:
    """Selects dead letters; None and empty values match all. Times are those of the dead letters."""

    reason: str | None = None
    topic: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    ids: Collection[DeadLetterId] = ()

    def matches(self, dead_letter: DeadLetter) -> bool:
        """Whether a dead letter matches."""
        return (
            (not self.ids or dead_letter.id in self.ids)
            and self.reason in {None, dead_letter.reason}
            and self.topic in {None, dead_letter.topic}
            and (self.since_ms is None or dead_letter.timestamp_ms >= self.since_ms)
            and (self.until_ms is None or dead_letter.timestamp_ms < self.until_ms)
        )


@dataclass(frozen=True, slots=True)
class DeadLetterIndex:
    """Summaries of the dead letters that match, and the handled ones among all."""

    dead_letters: Sequence[DeadLetter]
    handled: Mapping[DeadLetterId, Handled]

    def open(self) -> list[DeadLetter]:
        """The matching dead letters that are not handled."""
        return [dead_letter for dead_letter in self.dead_letters if dead_letter.id not in self.handled]


def parse_dead_letter(record: Record) -> DeadLetter | None:
    """Decodes a record of the dead-letter topic; None for a mark or a foreign record."""
    names = [name for name, _ in record.headers]
    if REASON_HEADER not in names:
        return None
    # All headers from the learner's first one on were added by it; those before it came with the original.
    start = len(names) - 1 - names[::-1].index(REASON_HEADER)
    added = {name: value or b"" for name, value in record.headers[start:]}
    truncated = start > 0 and names[start - 1] == TRUNCATED_HEADER
    before = record.headers[: start - truncated]
    try:
        return DeadLetter(
            DeadLetterId(record.partition, record.offset),
            record.timestamp,
            topic=added["kafka_dlt-original-topic"].decode(),
            partition=_INT32.unpack(added["kafka_dlt-original-partition"])[0],
            offset=_INT64.unpack(added["kafka_dlt-original-offset"])[0],
            original_ms=_INT64.unpack(added["kafka_dlt-original-timestamp"])[0],
            reason=added[REASON_HEADER].decode(),
            message=added["learner-message"].decode(),
            hop=next((value or b"" for name, value in reversed(before) if name == HOP_HEADER), None),
            key=record.key,
            value=record.value,
            value_bytes=len(record.value or b""),
            headers=[item for item in before if item[0] not in {HOP_HEADER, ORIGIN_HEADER}],
            truncated_bytes=int(record.headers[start - 1][1] or b"") if truncated else None,
        )
    except (KeyError, ValueError, struct.error):
        return None


def parse_mark(record: Record) -> tuple[DeadLetterId, Handled] | None:
    """Decodes a mark: which dead letter it marks as handled; None if the record is no mark.

    A dead letter keeps all headers of its original, so a record with a reason header is never a mark.
    """
    headers = dict(record.headers)
    if REASON_HEADER in headers:
        return None
    for name, handled in _HANDLED_BY_HEADER.items():
        if name in headers:
            try:
                return DeadLetterId.parse((headers[name] or b"").decode()), handled
            except ValueError:
                return None
    return None


def mark(topic: TopicName, dead_letter: DeadLetterId, handled: Handled) -> Outgoing:
    """The record that marks a dead letter as handled."""
    name = str(dead_letter).encode()
    return Outgoing(topic, dead_letter.partition, None, name, [(_HEADER_OF_HANDLED[handled], name)])


class DeadLetterReader:
    """Reads the dead-letter topic up to its current end; skips unreadable records."""

    def __init__(self, reader: PartitionReader, topic: TopicName, partitions: int) -> None:
        self._reader = reader
        self._partitions = [TopicPartition(topic, number) for number in range(partitions)]

    async def list_matching(self, wanted: Filter) -> DeadLetterIndex:
        """Reads summaries of the dead letters that match, oldest first, and every mark.

        Raises:
            BrokerError: Kafka refuses, or stopped answering.
        """
        return await self._list(wanted, await self._reader.ranges_of(self._partitions))

    async def list_newest(self, records: int) -> DeadLetterIndex:
        """Reads, as `list_matching`, what stands at each partition's last offsets, marks included.

        Args:
            records: how many offsets of each partition.

        Raises:
            BrokerError: Kafka refuses, or stopped answering.
        """
        held = await self._reader.ranges_of(self._partitions)
        newest = {one: OffsetRange(max(start, end - records), end) for one, (start, end) in held.items()}
        return await self._list(Filter(), newest)

    async def _list(self, wanted: Filter, ranges: Mapping[TopicPartition, OffsetRange]) -> DeadLetterIndex:
        found: list[DeadLetter] = []
        handled: dict[DeadLetterId, Handled] = {}
        async for record in self._records(ranges):
            marked = parse_mark(record)
            if marked is not None:
                handled[marked[0]] = marked[1]
            elif (dead_letter := parse_dead_letter(record)) is not None and wanted.matches(dead_letter):
                found.append(dead_letter.summary())
        found.sort(key=lambda dead_letter: (dead_letter.timestamp_ms, dead_letter.id))
        return DeadLetterIndex(found, handled)

    async def whole(self, ids: Collection[DeadLetterId]) -> AsyncIterator[DeadLetter]:
        """Reads the given dead letters in full.

        Raises:
            BrokerError: Kafka refuses, or stopped answering.
        """
        async for record in self._records(_ranges(ids, self._partitions)):
            if DeadLetterId(record.partition, record.offset) in ids:
                dead_letter = parse_dead_letter(record)
                if dead_letter is not None:
                    yield dead_letter

    async def _records(self, ranges: Mapping[TopicPartition, OffsetRange]) -> AsyncIterator[Record]:
        """The records of the given ranges, one partition after the other."""
        for partition, offsets in ranges.items():
            async for batch in self._reader.records(partition, offsets):
                for record in batch:
                    yield record


def _ranges(
    ids: Iterable[DeadLetterId], partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, OffsetRange]:
    """The smallest offset range of each partition that covers the given dead letters."""
    offsets: dict[TopicPartition, list[int]] = {}
    for one in ids:
        offsets.setdefault(partitions[one.partition], []).append(one.offset)
    return {partition: OffsetRange(min(found), max(found) + 1) for partition, found in offsets.items()}


@asynccontextmanager
async def reading_dead_letters(
    connection: Connection, topic: TopicName, *, patience_seconds: float, tell: Callable[[Gap], None]
) -> AsyncIterator[DeadLetterReader]:
    """Opens a reader of a cluster's dead letters.

    Args:
        tell: is called with every gap that is found.

    Raises:
        BrokerError: Kafka cannot be reached.
        ConfigurationError: there is no such topic.
    """
    async with connected(connection, patience_seconds=patience_seconds) as cluster:
        partitions = (await cluster.partitions([topic])).get(topic)
    if partitions is None:
        raise ConfigurationError(f"there is no topic {topic}: create it with `learner-worker topics create`")
    async with reading_partitions(connection, tell=tell, start_seconds=patience_seconds) as reader:
        yield DeadLetterReader(reader, topic, partitions)
