"""The oldest and the newest records of many partitions at once, apart from any group."""

import asyncio
from collections.abc import Mapping, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from learner_worker.kafka.clients import range_consumer, running
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.offsets import OffsetRange, offset_ranges
from learner_worker.kafka.polling import poll, seek
from learner_worker.kafka.records import Record
from learner_worker.refusals.denials import failure

_START_SECONDS = 10.0  # as long as other clients are given to connect
_SILENT_SECONDS = 30.0  # twice a broker's own time limit for a request
_POLL_MS = 200  # how soon silence is noticed


async def sample_ends(
    connection: Connection, partitions: Sequence[TopicPartition], count: int
) -> list[Record]:
    """Of each partition the `count` oldest records and those at its last `count` offsets, where there are.

    The oldest are counted as records, because compaction leaves long stretches without any; a batch may
    bring more. Records that the client cannot decode are passed over.

    Raises:
        BrokerError: Kafka does not answer.
    """
    async with running(range_consumer(connection), _START_SECONDS) as consumer:
        try:
            held = await offset_ranges(consumer, partitions)
            oldest = await _first_records(consumer, held, count)
            read = {TopicPartition(one.topic, one.partition): one.offset + 1 for one in oldest}
            rest = {
                one: OffsetRange(max(read.get(one, 0), offsets.end - count), offsets.end)
                for one, offsets in held.items()
            }
            return oldest + await _first_records(consumer, rest, count)
        except (KafkaError, TimeoutError) as error:
            raise failure("Kafka does not give a sample of records", error) from error


async def _first_records(
    consumer: AIOKafkaConsumer, ranges: Mapping[TopicPartition, OffsetRange], count: int
) -> list[Record]:
    """Of each partition at least `count` records from an offset on, or all until another offset."""
    positions = {one: start for one, (start, end) in ranges.items() if start < end}
    left = dict.fromkeys(positions, count)
    found: list[Record] = []
    consumer.assign(list(positions))
    seek(consumer, positions)
    while positions:
        for one, records in (await _polled(consumer, positions)).items():
            found += records
            left[one] -= len(records)
        done = [one for one, at in positions.items() if left[one] <= 0 or at >= ranges[one].end]
        consumer.pause(*done)
        for one in done:
            del positions[one]
    return found


async def _polled(
    consumer: AIOKafkaConsumer, positions: dict[TopicPartition, int]
) -> Mapping[TopicPartition, Sequence[Record]]:
    """The next records of some of the partitions; moves their positions on.

    Raises:
        TimeoutError: Kafka is silent.
    """
    async with asyncio.timeout(_SILENT_SECONDS):
        while True:
            before = dict(positions)
            polled = await poll(consumer, before, timeout_ms=_POLL_MS, max_records=None)
            for one in before:
                positions[one] = await consumer.position(one)
            if positions != before:
                return polled.batches
