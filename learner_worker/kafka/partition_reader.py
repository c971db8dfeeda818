"""Reads offset ranges of partitions, outside any consumer group."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from learner_worker.kafka.clients import range_consumer, running
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.offsets import OffsetRange, offset_ranges
from learner_worker.kafka.polling import Gap, Gaps, PollResult, poll, seek
from learner_worker.kafka.records import Record
from learner_worker.refusals.denials import failure

_START_SECONDS = 30.0  # the default of the setting `startup_timeout_seconds`
_KAFKA_SECONDS = 30.0  # aiokafka itself retries a request without a limit
_SILENT_SECONDS = 60.0  # longer than a broker's failover takes
_POLL_MS = 200  # how long a poll without records delays the check of the time limits
_POLL_RECORDS = 4_000  # bounds a batch of usual records to a few MB of memory


async def read_ranges(
    consumer: AIOKafkaConsumer,
    ranges: Mapping[TopicPartition, OffsetRange],
    gaps: Gaps,
    *,
    within_seconds: float | None = None,
) -> AsyncIterator[Sequence[Record]]:
    """Reads the records of offset ranges, in batches of one partition, each partition's in order.

    Offsets without a record are skipped; so are unreadable ones, which are added to `gaps`. No range may end
    beyond its partition's end offset.

    Args:
        within_seconds: reading stops after this time; None reads everything.

    Raises:
        KafkaError: as a poll does.
        TimeoutError: no record arrives for a minute, or a position stays unknown.
    """
    positions = {partition: start for partition, (start, end) in ranges.items() if start < end}
    if not positions:
        return
    consumer.assign(list(positions))
    seek(consumer, positions)
    began = moved_at = _now()
    while any(position < ranges[partition].end for partition, position in positions.items()):
        if within_seconds is not None and _now() - began > within_seconds:
            return
        for batch in _within(await _poll(consumer, positions), ranges, gaps):
            yield batch
        reached = await _positions(consumer, positions)
        if reached != positions:
            positions, moved_at = reached, _now()
        elif _now() - moved_at > _SILENT_SECONDS:
            raise TimeoutError(f"no record for {_SILENT_SECONDS:g} s")


async def _poll(consumer: AIOKafkaConsumer, positions: Mapping[TopicPartition, int]) -> PollResult:
    return await poll(consumer, positions, timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)


def _within(
    polled: PollResult, ranges: Mapping[TopicPartition, OffsetRange], gaps: Gaps
) -> Iterator[Sequence[Record]]:
    """The polled records within the ranges: a fetch may return more."""
    if polled.gap is not None and polled.gap.offsets.start < ranges[polled.gap.partition].end:
        gaps.meet(polled.gap)
    for partition, batch in polled.batches.items():
        if records := [record for record in batch if record.offset < ranges[partition].end]:
            yield records


async def _positions(
    consumer: AIOKafkaConsumer, partitions: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    async with asyncio.timeout(_KAFKA_SECONDS):
        return {partition: await consumer.position(partition) for partition in partitions}


async def record_at(consumer: AIOKafkaConsumer, partition: TopicPartition, offset: int) -> Record | None:
    """The record at an offset; None if the partition has none there.

    Raises:
        KafkaError: as a poll does.
        TimeoutError: no answer comes.
    """
    consumer.assign([partition])
    consumer.seek(partition, offset)
    deadline = _now() + _KAFKA_SECONDS
    while _now() < deadline:
        try:
            polled = await poll(consumer, {partition: offset}, timeout_ms=_POLL_MS, max_records=1)
        except OffsetOutOfRangeError:
            return None
        for record in polled.batches.get(partition, ()):
            return record if record.offset == offset else None
        async with asyncio.timeout(_KAFKA_SECONDS):
            if polled.gap is not None or await consumer.position(partition) > offset:
                return None
    raise TimeoutError(f"no record for {_KAFKA_SECONDS:g} s")


class PartitionReader:
    """Reads partitions one after the other.

    Attributes:
        gaps: the unreadable offsets that it skipped.
    """

    def __init__(self, consumer: AIOKafkaConsumer, gaps: Gaps) -> None:
        self._consumer = consumer
        self.gaps = gaps

    async def range_of(self, partition: TopicPartition) -> OffsetRange:
        """The offset range that the partition holds now.

        Raises:
            BrokerError: Kafka does not answer.
        """
        return (await self.ranges_of([partition]))[partition]

    async def ranges_of(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, OffsetRange]:
        """The offset ranges that partitions hold now.

        Raises:
            BrokerError: Kafka does not answer.
        """
        try:
            async with asyncio.timeout(_KAFKA_SECONDS):
                return await offset_ranges(self._consumer, partitions)
        except (KafkaError, TimeoutError) as error:
            topics = ", ".join(sorted({partition.topic for partition in partitions}))
            raise failure(f"Kafka does not give the offsets of {topics}", error) from error

    async def records(
        self, partition: TopicPartition, offsets: OffsetRange
    ) -> AsyncIterator[Sequence[Record]]:
        """Reads the partition's records in an offset range, like `read_ranges`.

        Raises:
            BrokerError: Kafka refuses, or no record arrives for a minute.
        """
        try:
            async for batch in read_ranges(self._consumer, {partition: offsets}, self.gaps):
                yield batch
        except (KafkaError, TimeoutError) as error:
            raise failure(f"the records of {partition.topic} cannot be read", error) from error

    def rest(self) -> None:
        """Fetches nothing until the next read."""
        self._consumer.assign([])


@asynccontextmanager
async def reading_partitions(
    connection: Connection, *, tell: Callable[[Gap], None], start_seconds: float = _START_SECONDS
) -> AsyncIterator[PartitionReader]:
    """Opens a reader with a consumer outside any group.

    Args:
        tell: is called with every gap that is found.

    Raises:
        BrokerError: Kafka cannot be reached.
    """
    async with running(range_consumer(connection), start_seconds) as consumer:
        yield PartitionReader(consumer, Gaps(tell))


def _now() -> float:
    return asyncio.get_running_loop().time()
