"""Offset ranges of partitions."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition


class OffsetRange(NamedTuple):
    """Offsets of a partition, from `start` (inclusive) to `end` (exclusive)."""

    start: int
    end: int


async def offset_ranges(
    consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, OffsetRange]:
    """The range that each partition holds now: from its first offset to its end offset."""
    listed = list(partitions)
    starts, ends = await asyncio.gather(consumer.beginning_offsets(listed), consumer.end_offsets(listed))
    return {partition: OffsetRange(starts[partition], ends[partition]) for partition in listed}
