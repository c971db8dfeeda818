"""Commits the offsets of answered requests, to a consumer group of their own."""

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
"""Time limit for a commit or an offset lookup: beyond it the loop treats Kafka as unreachable."""
_EVERY_SECONDS = 1.0
"""Commit interval: after a kill, the requests of one interval are answered again."""
_log = structlog.get_logger("learner_worker.requests")


class OffsetCommits:
    """Commits offsets, one commit at a time."""

    def __init__(self, consumer: AIOKafkaConsumer, topic: TopicName, clock: Clock) -> None:
        self._consumer = consumer
        self._topic = topic
        self._clock = clock
        self._committed_at = clock.monotonic()
        self._in_flight: asyncio.Task[None] | None = None

    def commit_in_background(self, offsets: Mapping[ShardId, InFlightOffsets]) -> None:
        """Starts a commit once a second, unless one is in flight: no request waits for it.

        Raises:
            KafkaError, TimeoutError: the previous commit failed.
        """
        if self._in_flight is not None:
            if not self._in_flight.done():
                return
            ended, self._in_flight = self._in_flight, None
            ended.result()
        if self._clock.monotonic() - self._committed_at >= _EVERY_SECONDS:
            self._committed_at = self._clock.monotonic()
            self._in_flight = asyncio.create_task(self.commit(offsets), name="commit-requests")

    async def wait_for_background(self) -> None:
        """Waits for the commit in flight: its offsets are older, so it must not arrive after the next one."""
        in_flight, self._in_flight = self._in_flight, None
        if in_flight is None:
            return
        await asyncio.wait([in_flight])
        if not in_flight.cancelled() and (error := in_flight.exception()) is not None:
            _log.warning("lane.commit_failed", error=repr(error))

    def cancel_background(self) -> None:
        """Cancels the commit in flight: a later one includes its offsets."""
        if self._in_flight is not None:
            self._in_flight.cancel()

    async def finish(self, offsets: Mapping[ShardId, InFlightOffsets]) -> None:
        """Commits what is answered; logs a failure."""
        try:
            await self.wait_for_background()
            await self.commit(offsets)
        except (KafkaError, TimeoutError) as error:
            _log.warning("lane.commit_failed", error=repr(error))

    async def commit(self, offsets: Mapping[ShardId, InFlightOffsets]) -> None:
        """Commits the offsets that have advanced since the last commit.

        Raises:
            KafkaError, TimeoutError: Kafka did not accept it.
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
        # Not from `offsets`: a partition may have been released meanwhile.
        for of_shard, position in moved.values():
            of_shard.committed = position
