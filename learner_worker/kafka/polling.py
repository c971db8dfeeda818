"""Polls around records that aiokafka cannot decode: a header name that is not UTF-8 makes every poll fail.

aiokafka also withholds the records before the broken one in the same fetch. So they are read one by one, and
then the rest of the batch is skipped: the records after the broken one in the same batch cannot be read by
this client, and the caller reports their offsets.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from learner_worker.kafka.offsets import OffsetRange
from learner_worker.kafka.records import Record

_FOUND_MS = 20  # long enough for records that are already fetched; repeated until `_PROBE_MS`
_PROBE_MS = 2_000  # a distant broker answers a fetch within it; a silent one must not block the loop


@dataclass(frozen=True, slots=True)
class Gap:
    """Offsets of a partition that cannot be read."""

    partition: TopicPartition
    offsets: OffsetRange

    def __str__(self) -> str:
        """A description for operators."""
        start, last = self.offsets.start, self.offsets.end - 1
        offsets = f"offset {last}" if start == last else f"offsets {start} to {last}"
        topic, partition = self.partition
        return f"{topic}/{partition}, {offsets}: skipped, a header's name is not UTF-8"


class Gaps:
    """The gaps that a tool has found; each is reported once, however often it is read.

    Args:
        tell: is called with every gap that is found first.
    """

    def __init__(self, tell: Callable[[Gap], None]) -> None:
        self._tell = tell
        self._met: dict[tuple[TopicPartition, int], Gap] = {}

    def meet(self, gap: Gap) -> None:
        """Adds a gap; one with the same end as a known one is the same."""
        if self._met.setdefault((gap.partition, gap.offsets.end), gap) is gap:
            self._tell(gap)

    def of(self, partition: TopicPartition) -> list[Gap]:
        """The gaps of a partition, in the order in which they were found."""
        return [gap for gap in self._met.values() if gap.partition == partition]


@dataclass(slots=True)
class PollResult:
    """The records of a poll, and the gap that it found, if any."""

    batches: dict[TopicPartition, list[Record]] = field(default_factory=dict)
    gap: Gap | None = None


async def poll(
    consumer: AIOKafkaConsumer,
    positions: Mapping[TopicPartition, int],
    *,
    timeout_ms: int,
    max_records: int | None,
) -> PollResult:
    """Polls a manually assigned consumer; seeks back after a failed poll.

    A failed poll has moved past records of other partitions that it did not return.

    Args:
        positions: the next offset of every partition assigned.

    Raises:
        KafkaError: as a poll does.
    """
    try:
        try:
            return PollResult(await consumer.getmany(timeout_ms=timeout_ms, max_records=max_records))
        except UnicodeDecodeError:
            seek(consumer, positions)
            return await read_one_by_one(consumer, positions.keys())
    except KafkaError:
        seek(consumer, positions)
        raise


def seek(consumer: AIOKafkaConsumer, positions: Mapping[TopicPartition, int]) -> None:
    """Moves the consumer to the given next offsets."""
    for partition, position in positions.items():
        consumer.seek(partition, position)


async def read_one_by_one(consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition]) -> PollResult:
    """Polls partition by partition up to the first unreadable record, and positions the consumer after it.

    After a seek, records have to be fetched again, which may take longer than one round, so rounds repeat for
    a while: otherwise the next poll would fail and seek again, without end.

    Raises:
        KafkaError: as a poll does.
    """
    polled = PollResult()
    clock = asyncio.get_running_loop().time
    deadline = clock() + _PROBE_MS / 1000
    while polled.gap is None and (left := [one for one in partitions if one not in polled.batches]):
        await _one_round(consumer, left, polled)
        if clock() > deadline:
            break
    return polled


async def _one_round(
    consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition], polled: PollResult
) -> None:
    for partition in partitions:
        try:
            polled.batches.update(await consumer.getmany(partition, timeout_ms=_FOUND_MS))
        except UnicodeDecodeError:
            records, broken = await _records_before(consumer, partition)
            if records:  # no batch is empty, as of any poll
                polled.batches[partition] = records
            if broken:
                polled.gap = await _gap(consumer, partition)
            return


async def _records_before(consumer: AIOKafkaConsumer, partition: TopicPartition) -> tuple[list[Record], bool]:
    """Reads records one by one up to a broken one; returns whether the broken one follows.

    aiokafka returns decoded records only if it stops before the broken one. None follows if Kafka is silent.
    """
    records: list[Record] = []
    try:
        while batch := await consumer.getmany(partition, timeout_ms=_PROBE_MS, max_records=1):
            records += batch[partition]
    except UnicodeDecodeError:
        return records, True
    return records, False


async def _gap(consumer: AIOKafkaConsumer, partition: TopicPartition) -> Gap | None:
    """The gap at the consumer's position; None if Kafka went silent: the next poll finds it again."""
    start = await consumer.position(partition)
    try:
        return Gap(partition, OffsetRange(start, await _end_of_gap(consumer, partition, start)))
    except TimeoutError:
        consumer.seek(partition, start)
        return None


async def _end_of_gap(consumer: AIOKafkaConsumer, partition: TopicPartition, broken: int) -> int:
    """The first readable offset after a broken one: found by doubling steps, then by bisection.

    Raises:
        TimeoutError: Kafka does not answer for one of the offsets.
    """
    end = _end_of_fetched(consumer, partition, broken)
    readable, step = broken + 1, 1
    while readable < end and not await _is_readable(consumer, partition, readable):
        broken, step = readable, step * 2
        readable = min(readable + step, end)
    while readable - broken > 1:
        middle = (broken + readable) // 2
        if await _is_readable(consumer, partition, middle):
            readable = middle
        else:
            broken = middle
    consumer.seek(partition, readable)
    return readable


def _end_of_fetched(consumer: AIOKafkaConsumer, partition: TopicPartition, broken: int) -> int:
    """The end of what can be read now: records of an open transaction are left to a later poll."""
    ends = (consumer.highwater(partition), consumer.last_stable_offset(partition))
    return min((end for end in ends if end is not None and end > broken), default=broken + 1)


async def _is_readable(consumer: AIOKafkaConsumer, partition: TopicPartition, offset: int) -> bool:
    """Whether a read at an offset returns a record, or advances because the offset holds none.

    Raises:
        TimeoutError: neither happened: the offset may be readable, so it must not be skipped.
    """
    consumer.seek(partition, offset)
    try:
        found = await consumer.getmany(partition, timeout_ms=_PROBE_MS, max_records=1)
    except UnicodeDecodeError:
        return False
    if not found and await consumer.position(partition) == offset:
        raise TimeoutError
    return True
