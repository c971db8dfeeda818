"""Records that aiokafka cannot decode: a header whose name is not UTF-8 makes every poll fail, for ever.

aiokafka also keeps back the records before it in the same fetch. So they are read one by one, and then the
rest of the batch is stepped over: of the records that share it with the broken one, those behind it are lost
to this client, and its owner raises an alarm that names them.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from learner_worker.kafka.offsets import OffsetRange
from learner_worker.kafka.records import Record

_FOUND_MS = 20
_PROBE_MS = 2_000


@dataclass(frozen=True, slots=True)
class Gap:
    """Offsets of a partition that cannot be read."""

    partition: TopicPartition
    offsets: OffsetRange

    def __str__(self) -> str:
        """What an operator is told."""
        start, last = self.offsets.start, self.offsets.end - 1
        offsets = f"offset {last}" if start == last else f"offsets {start} to {last}"
        topic, partition = self.partition
        return f"{topic}/{partition}, {offsets}: stepped over, a header's name is not UTF-8"


class Gaps:
    """The gaps that a tool has met; each is told of once, however often it is read.

    Args:
        tell: takes a gap when it is met first.
    """

    def __init__(self, tell: Callable[[Gap], None]) -> None:
        self._tell = tell
        self._met: dict[tuple[TopicPartition, int], Gap] = {}

    def meet(self, gap: Gap) -> None:
        """Takes a gap; one that was read from its middle before is the same."""
        if self._met.setdefault((gap.partition, gap.offsets.end), gap) is gap:
            self._tell(gap)

    def of(self, partition: TopicPartition) -> list[Gap]:
        """Those of a partition, in the order they were met."""
        return [gap for gap in self._met.values() if gap.partition == partition]


@dataclass(slots=True)
class PollResult:
    """What a poll around an unreadable record gives."""

    batches: dict[TopicPartition, list[Record]] = field(default_factory=dict)
    gap: Gap | None = None


async def poll(
    consumer: AIOKafkaConsumer,
    positions: Mapping[TopicPartition, int],
    *,
    timeout_ms: int,
    max_records: int | None,
) -> PollResult:
    """Polls a consumer assigned by hand; one that fails is taken back.

    It has moved past what it had already taken from other partitions, and nobody was given that.

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
    """Moves the consumer to the next offset of every partition."""
    for partition, position in positions.items():
        consumer.seek(partition, position)


async def read_one_by_one(consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition]) -> PollResult:
    """Polls partition by partition, up to the first unreadable record, and positions the consumer behind it.

    What was sought is on its way again, from a distant broker for longer than a round takes, and is waited
    for: the next poll would fail again and seek again, and so for ever.

    Raises:
        KafkaError: as a poll does.
    """
    around = PollResult()
    clock = asyncio.get_running_loop().time
    deadline = clock() + _PROBE_MS / 1000
    while around.gap is None and (left := [one for one in partitions if one not in around.batches]):
        await _one_round(consumer, left, around)
        if clock() > deadline:
            break
    return around


async def _one_round(
    consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition], around: PollResult
) -> None:
    for partition in partitions:
        try:
            around.batches.update(await consumer.getmany(partition, timeout_ms=_FOUND_MS))
        except UnicodeDecodeError:
            records, broken = await _records_before(consumer, partition)
            if records:  # no batch is empty, as of any poll
                around.batches[partition] = records
            if broken:
                around.gap = await _gap(consumer, partition)
            return


async def _records_before(consumer: AIOKafkaConsumer, partition: TopicPartition) -> tuple[list[Record], bool]:
    """One by one: aiokafka gives what it has decoded only if it stops before the broken record.

    And whether that is what comes next: not if Kafka fell silent.
    """
    records: list[Record] = []
    try:
        while batch := await consumer.getmany(partition, timeout_ms=_PROBE_MS, max_records=1):
            records += batch[partition]
    except UnicodeDecodeError:
        return records, True
    return records, False


async def _gap(consumer: AIOKafkaConsumer, partition: TopicPartition) -> Gap | None:
    """The gap at the consumer's position; None if Kafka fell silent: the next poll meets it again."""
    start = await consumer.position(partition)
    try:
        return Gap(partition, OffsetRange(start, await _end_of_gap(consumer, partition, start)))
    except TimeoutError:
        consumer.seek(partition, start)
        return None


async def _end_of_gap(consumer: AIOKafkaConsumer, partition: TopicPartition, broken: int) -> int:
    """The first readable offset: doubling steps to find one, halving steps to find the first of them.

    Raises:
        TimeoutError: Kafka says nothing of one of them.
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
    """Up to where there is something to read now: what a transaction holds back is for another poll."""
    ends = (consumer.highwater(partition), consumer.last_stable_offset(partition))
    return min((end for end in ends if end is not None and end > broken), default=broken + 1)


async def _is_readable(consumer: AIOKafkaConsumer, partition: TopicPartition, offset: int) -> bool:
    """Whether a read from an offset gives something, or moves on where no record is any more.

    Raises:
        TimeoutError: neither. Nothing is known of the offset then, and nothing readable may be stepped over.
    """
    consumer.seek(partition, offset)
    try:
        found = await consumer.getmany(partition, timeout_ms=_PROBE_MS, max_records=1)
    except UnicodeDecodeError:
        return False
    if not found and await consumer.position(partition) == offset:
        raise TimeoutError
    return True
