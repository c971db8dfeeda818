"""Reading one partition from an offset up to another, apart from any group."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from learner_worker.contract.fields import MAX_RECORD_BYTES
from learner_worker.errors import BrokerError
from learner_worker.kafka.admin import ends_of, start_within
from learner_worker.kafka.batching import stop_within
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.polling import Gap, Gaps, PollResult, poll
from learner_worker.kafka.records import Record

_START_SECONDS = 30.0
_KAFKA_SECONDS = 30.0
_SILENT_SECONDS = 60.0
_POLL_MS = 200
_POLL_RECORDS = 4_000
_FETCH_WAIT_MS = 100


class PartitionReader:
    """Reads partitions one after the other.

    Attributes:
        gaps: what it could not read and stepped over.
    """

    def __init__(self, consumer: AIOKafkaConsumer, gaps: Gaps) -> None:
        self._consumer = consumer
        self.gaps = gaps

    async def ends(self, partition: TopicPartition) -> tuple[int, int]:
        """The partition's first and its next offset, as Kafka says now.

        Raises:
            BrokerError: Kafka does not answer.
        """
        try:
            async with asyncio.timeout(_KAFKA_SECONDS):
                return (await ends_of(self._consumer, [partition]))[partition]
        except (KafkaError, TimeoutError) as error:
            raise BrokerError(f"Kafka does not say where {partition.topic} ends: {error!r}") from error

    async def records(
        self, partition: TopicPartition, start: int, until: int
    ) -> AsyncIterator[Sequence[Record]]:
        """The partition's records from `start` to before `until`, in batches.

        Offsets that hold no record (any more) are passed over; so are those that cannot be read, and `gaps`
        has them. `until` must not lie beyond the end.

        Raises:
            BrokerError: Kafka gives nothing for a minute.
        """
        if start >= until:
            return
        self._consumer.assign([partition])
        self._consumer.seek(partition, start)
        position, moved_at = start, _now()
        while position < until:
            polled, reached = await self._polled(partition, position)
            if polled.gap is not None and polled.gap.first < until:
                self.gaps.meet(polled.gap)
            if records := [record for record in polled.batches.get(partition, ()) if record.offset < until]:
                yield records
            if reached != position:
                position, moved_at = reached, _now()
            elif _now() - moved_at > _SILENT_SECONDS:
                raise BrokerError(f"Kafka gave no record of {partition.topic} for {_SILENT_SECONDS:g} s")

    async def _polled(self, partition: TopicPartition, position: int) -> tuple[PollResult, int]:
        """What a poll gives, and the position behind it."""
        try:
            polled = await poll(
                self._consumer, {partition: position}, timeout_ms=_POLL_MS, max_records=_POLL_RECORDS
            )
            async with asyncio.timeout(_KAFKA_SECONDS):
                return polled, await self._consumer.position(partition)
        except (KafkaError, TimeoutError) as error:
            raise BrokerError(f"Kafka does not give the records of {partition.topic}: {error!r}") from error


@asynccontextmanager
async def reading_partitions(
    connection: Connection, *, tell: Callable[[Gap], None]
) -> AsyncIterator[PartitionReader]:
    """A consumer of no group.

    Args:
        tell: takes what cannot be read.

    Raises:
        BrokerError: Kafka cannot be reached.
    """
    consumer = AIOKafkaConsumer(
        **connection.options(),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        fetch_max_wait_ms=_FETCH_WAIT_MS,
        max_partition_fetch_bytes=MAX_RECORD_BYTES,
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(stop_within, consumer)
        await start_within(consumer, _START_SECONDS)
        yield PartitionReader(consumer, Gaps(tell))


def _now() -> float:
    return asyncio.get_running_loop().time()
