"""Commits of what is answered, to a consumer group of the requests' own."""

import asyncio
from collections.abc import Mapping

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName
from learner_worker.requests.clock import Clock
from learner_worker.requests.in_flight import InFlightOffsets

KAFKA_SECONDS = 10.0
"""How long Kafka may take for a commit or a look-up: then the loop is told that Kafka is away."""
_EVERY_SECONDS = 1.0
"""Seldom enough to cost nothing; a replica that is killed leaves a second's requests to be answered again."""
_log = structlog.get_logger("learner_worker.requests")


class OffsetCommits:
    """Commits offsets, one commit at a time."""

    def __init__(self, consumer: AIOKafkaConsumer, topic: TopicName, clock: Clock) -> None:
        self._consumer = consumer
        self._topic = topic
        self._clock = clock
        self._committed_at = clock.monotonic()
        self._under_way: asyncio.Task[None] | None = None

    def commit_in_background(self, offsets: Mapping[ShardId, InFlightOffsets]) -> None:
        """Begins a commit once a second, unless one is under way: no request waits for it.

        Raises:
            KafkaError, TimeoutError: the last one failed.
        """
        if self._under_way is not None:
            if not self._under_way.done():
                return
            ended, self._under_way = self._under_way, None
            ended.result()
        if self._clock.monotonic() - self._committed_at >= _EVERY_SECONDS:
            self._committed_at = self._clock.monotonic()
            self._under_way = asyncio.create_task(self.commit(offsets), name="commit-requests")

    async def wait_for_background(self) -> None:
        """Waits for the commit under way: it knows of less than the next, and must not come after it."""
        under_way, self._under_way = self._under_way, None
        if under_way is None:
            return
        await asyncio.wait([under_way])
        if not under_way.cancelled() and (error := under_way.exception()) is not None:
            _log.warning("lane.commit_failed", error=repr(error))

    def cancel_background(self) -> None:
        """Leaves the commit under way: a later one commits as much, and more."""
        if self._under_way is not None:
            self._under_way.cancel()

    async def finish(self, offsets: Mapping[ShardId, InFlightOffsets]) -> None:
        """Commits what is answered, or says why it could not."""
        try:
            await self.wait_for_background()
            await self.commit(offsets)
        except (KafkaError, TimeoutError) as error:
            _log.warning("lane.commit_failed", error=repr(error))

    async def commit(self, offsets: Mapping[ShardId, InFlightOffsets]) -> None:
        """Commits whatever has moved since the last commit.

        Raises:
            KafkaError, TimeoutError: Kafka did not take it.
        """
        moved = {
            shard_id: (of_shard, of_shard.committable)
            for shard_id, of_shard in offsets.items()
            if of_shard.committable > of_shard.committed
        }
        if not moved:
            return
        async with asyncio.timeout(KAFKA_SECONDS):
            await self._consumer.commit(
                {
                    TopicPartition(self._topic, shard_id): OffsetAndMetadata(position, "")
                    for shard_id, (_, position) in moved.items()
                }
            )
        for of_shard, position in moved.values():  # the partition may have been left meanwhile
            of_shard.committed = position
