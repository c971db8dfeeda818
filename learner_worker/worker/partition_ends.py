"""Finds out which partitions are read to their end, and up to which record time.

The shards' watermarks depend on it: no record older than a confirmed end is still to be read.
"""

import asyncio

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from learner_worker.contract.fields import ShardId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.worker.ownership import Ownership

_LOOK_SECONDS = 0.1
"""Under load less often than after every poll, because each check visits every partition."""
_POSITION_SECONDS = 5.0
"""Time limit for the consumer's positions, which never come while Kafka is unreachable."""


class PartitionEnds:
    """Tells the shards which partitions are read to their end, and skips offsets without records."""

    def __init__(self, *, consumer: AIOKafkaConsumer, ownership: Ownership) -> None:
        self._consumer = consumer
        self._ownership = ownership
        self._epoch = 0
        self._receipts: dict[TopicPartition, tuple[int | None, int | None]] = {}
        self._looked_at = 0.0

    async def look_now_and_then(self, epoch: int, *, idle: bool) -> None:
        """Checks after every poll without records, and otherwise a few times a second."""
        now = asyncio.get_running_loop().time()
        if idle or now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            await self._look(epoch)

    async def _look(self, epoch: int) -> None:
        if self._epoch != epoch:  # answers of an earlier epoch confirm nothing in this one
            self._epoch = epoch
            self._receipts.clear()
        try:
            async with asyncio.timeout(_POSITION_SECONDS):
                for partition in list(self._ownership.reading):
                    position = await self._consumer.position(partition)
                    if epoch != self._ownership.epoch:
                        return
                    self._note(partition, position)
        except (KafkaError, TimeoutError):
            return  # the watermark stays, so nothing is forgotten meanwhile

    def _note(self, partition: TopicPartition, position: int) -> None:
        shard = self._ownership.shards[ShardId(partition.partition)]
        topic = TopicName(partition.topic)
        shard.positions[topic] = max(position, shard.positions[topic])
        shard.note_end(topic, self._confirmed_end(partition, position))

    def _confirmed_end(self, partition: TopicPartition, position: int) -> Micros | None:
        """The time up to which a partition is known to be read to its end; None if it is not at its end.

        aiokafka stamps an answer on receipt, which after a suspension may be long after the broker gave it.
        The answer was requested after the previous one was received, so that earlier time is safe.
        """
        highwater = self._consumer.highwater(partition)
        received_ms = self._consumer.last_poll_timestamp(partition)
        latest, before = self._receipts.get(partition, (None, None))
        if received_ms != latest:
            before = latest
            self._receipts[partition] = (received_ms, before)
        if highwater is None or before is None or position < highwater:
            return None
        return Micros(before * 1000)
