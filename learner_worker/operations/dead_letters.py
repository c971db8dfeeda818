"""The dead-letter topic as an operator reads it: letters, and the marks that say which are handled.

A mark is one more record of the topic, on its letter's partition and after it, so retention never takes a
mark before its letter. Nothing is rewritten or deleted: whoever reads the topic folds the marks in.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from learner_worker.contract.topics import HOP_HEADER, TopicName
from learner_worker.errors import BrokerError, ConfigurationError
from learner_worker.kafka.admin import connected, ends_of, start_within
from learner_worker.kafka.batching import stop_within
from learner_worker.kafka.clients import standby_consumer
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.polling import Gap, Gaps, poll
from learner_worker.kafka.records import (
    ORIGIN_HEADER,
    REASON_HEADER,
    TRUNCATED_HEADER,
    Headers,
    Outgoing,
    Record,
)

Handled = Literal["replayed", "dropped"]
SHOWN_BYTES = 200
"""How much of a value a summary keeps."""

_MARKS: Mapping[str, Handled] = {"learner-replayed": "replayed", "learner-dropped": "dropped"}
_MARK_HEADERS: Mapping[Handled, str] = {handled: name for name, handled in _MARKS.items()}
_POLL_MS = 500
_STALLED_SECONDS = 20.0
_INT32, _INT64 = struct.Struct(">i"), struct.Struct(">q")


class DeadLetterId(NamedTuple):
    """Where a letter lies in the dead-letter topic: its name for operators, as `3/17`."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The letter that `PARTITION/OFFSET` names.

        Raises:
            ValueError: the text is no such name.
        """
        partition, slash, offset = text.partition("/")
        if (
            not slash
            or not (partition + offset).isascii()
            or not (partition.isdecimal() and offset.isdecimal())
        ):
            raise ValueError(f"{text!r} is no PARTITION/OFFSET, as 3/17")
        return cls(int(partition), int(offset))


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter, taken apart.

    Attributes:
        timestamp_ms: when it became a dead letter.
        topic, partition, offset: where its original lay.
        original_ms: the original's record time.
        hop: the event's kind, for an original that had been moved once.
        headers: the original's own headers.
        value_bytes: how long the value is here.
        truncated_bytes: how long the original's value was, if it was cut off.
    """

    letter_id: DeadLetterId
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
        """Where the original lay, as `bid-placed/3/991`."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    def summary(self) -> "DeadLetter":
        """The letter with the start of its value only."""
        return replace(self, value=self.value and self.value[:SHOWN_BYTES], headers=())


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters are meant; None and empty leave the choice open. Times are the letters' own."""

    reason: str | None = None
    topic: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    letter_ids: Collection[DeadLetterId] = ()

    def matches(self, letter: DeadLetter) -> bool:
        """Whether this letter is meant."""
        return (
            (not self.letter_ids or letter.letter_id in self.letter_ids)
            and self.reason in {None, letter.reason}
            and self.topic in {None, letter.topic}
            and (self.since_ms is None or letter.timestamp_ms >= self.since_ms)
            and (self.until_ms is None or letter.timestamp_ms < self.until_ms)
        )


@dataclass(frozen=True, slots=True)
class DeadLetterIndex:
    """What the topic holds: the summaries of the letters that match, and what was handled of all of them."""

    letters: Sequence[DeadLetter]
    handled: Mapping[DeadLetterId, Handled]

    def open(self) -> list[DeadLetter]:
        """The matching letters that nobody has handled."""
        return [letter for letter in self.letters if letter.letter_id not in self.handled]


def letter_of(record: Record) -> DeadLetter | None:
    """The letter in a record of the dead-letter topic; None for a mark, or what others have put there."""
    names = [name for name, _ in record.headers]
    if REASON_HEADER not in names:
        return None
    # Everything from the learner's own first header on was added; what stands before it came from outside.
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


def mark_of(record: Record) -> tuple[DeadLetterId, Handled] | None:
    """Which letter a record of the dead-letter topic marks as handled; None if it is no mark.

    A letter keeps its original's headers, whatever they are: what has a reason is a letter, never a mark.
    """
    headers = dict(record.headers)
    if REASON_HEADER in headers:
        return None
    for name, handled in _MARKS.items():
        if name in headers:
            try:
                return DeadLetterId.parse((headers[name] or b"").decode()), handled
            except ValueError:
                return None
    return None


def mark(topic: TopicName, letter_id: DeadLetterId, handled: Handled) -> Outgoing:
    """The record that marks a letter as handled."""
    name = str(letter_id).encode()
    return Outgoing(topic, letter_id.partition, None, name, [(_MARK_HEADERS[handled], name)])


class DeadLetterReader:
    """Reads the dead-letter topic from its first record to its present end, around what cannot be read."""

    def __init__(self, consumer: AIOKafkaConsumer, topic: TopicName, partitions: int, gaps: Gaps) -> None:
        self._consumer = consumer
        self._gaps = gaps
        self._partitions = [TopicPartition(topic, number) for number in range(partitions)]

    async def take_stock(self, wanted: Filter) -> DeadLetterIndex:
        """Everything that matches, oldest first, and every mark; the values only as far as they are shown.

        Raises:
            BrokerError: Kafka stopped answering.
        """
        letters: list[DeadLetter] = []
        handled: dict[DeadLetterId, Handled] = {}
        async for record in self._records(await ends_of(self._consumer, self._partitions)):
            marked = mark_of(record)
            if marked is not None:
                handled[marked[0]] = marked[1]
            elif (letter := letter_of(record)) is not None and wanted.matches(letter):
                letters.append(letter.summary())
        letters.sort(key=lambda letter: (letter.timestamp_ms, letter.letter_id))
        return DeadLetterIndex(letters, handled)

    async def whole(self, letter_ids: Collection[DeadLetterId]) -> AsyncIterator[DeadLetter]:
        """The given letters with all they carry.

        Raises:
            BrokerError: Kafka stopped answering.
        """
        async for record in self._records(_ranges(letter_ids, self._partitions)):
            if DeadLetterId(record.partition, record.offset) in letter_ids:
                letter = letter_of(record)
                if letter is not None:
                    yield letter

    async def _records(self, ranges: Mapping[TopicPartition, tuple[int, int]]) -> AsyncIterator[Record]:
        """The records of the given ranges of offsets (first and next), a partition after the other."""
        for partition, (first, end) in ranges.items():
            self._consumer.assign([partition])
            self._consumer.seek(partition, first)
            async for record in self._until(partition, end):
                yield record

    async def _until(self, partition: TopicPartition, end: int) -> AsyncIterator[Record]:
        loop = asyncio.get_running_loop()
        moved_at = loop.time()
        while (position := await self._consumer.position(partition)) < end:
            polled = await poll(self._consumer, {partition: position}, timeout_ms=_POLL_MS, max_records=None)
            if polled.gap is not None and polled.gap.first < end:
                self._gaps.meet(polled.gap)
            for record in polled.batches.get(partition, ()):
                if record.offset < end:
                    yield record
            moved_at = loop.time() if polled.batches or polled.gap else moved_at
            if loop.time() - moved_at > _STALLED_SECONDS:
                raise BrokerError("the dead letters cannot be read to their end: Kafka stopped answering")


def _ranges(
    letter_ids: Iterable[DeadLetterId], partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, tuple[int, int]]:
    """The smallest range of offsets a partition that covers the given letters."""
    offsets: dict[TopicPartition, list[int]] = {}
    for letter_id in letter_ids:
        offsets.setdefault(partitions[letter_id.partition], []).append(letter_id.offset)
    return {partition: (min(found), max(found) + 1) for partition, found in offsets.items()}


@asynccontextmanager
async def letter_box(
    connection: Connection, topic: TopicName, *, patience_seconds: float, tell: Callable[[Gap], None]
) -> AsyncIterator[DeadLetterReader]:
    """The dead letters of a running cluster.

    Args:
        tell: takes what cannot be read.

    Raises:
        BrokerError: Kafka cannot be reached, or does not let this user read.
        ConfigurationError: there is no such topic.
    """
    async with connected(connection, patience_seconds=patience_seconds) as cluster:
        partitions = (await cluster.partitions([topic])).get(topic)
    if partitions is None:
        raise ConfigurationError(
            f"there is no topic {topic}, or this user may not see it: "
            "create it with `learner-worker topics create`, or allow Describe and Read on it"
        )
    consumer = standby_consumer(connection)
    await start_within(consumer, patience_seconds)
    try:
        yield DeadLetterReader(consumer, topic, partitions, Gaps(tell))
    except KafkaError as error:
        raise BrokerError(f"the dead letters cannot be read: {error}") from error
    finally:
        await stop_within(consumer)
