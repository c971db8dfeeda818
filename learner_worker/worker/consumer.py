"""The poll loop over the sharded topics: poll, pass each batch to its shard, seek and resume.

Only this loop seeks and resumes the consumer, and only between two polls, so a batch always starts at the
position that it is compared with. (An assignment seeks the paused partitions to 0, to be sought again here.)
A batch that was polled in an earlier epoch is dropped, and every partition is sought again.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName
from learner_worker.errors import SendError, StuckError
from learner_worker.group.membership import Membership
from learner_worker.kafka.batching import BatchWriter
from learner_worker.kafka.outage import Outage
from learner_worker.kafka.polling import Gap, PollResult, read_one_by_one, seek
from learner_worker.kafka.watchdog import Reading, look
from learner_worker.refusals.denials import failure
from learner_worker.shard.shard import Shard
from learner_worker.worker.checkpoint import Checkpointer
from learner_worker.worker.failure import WorkerFailure
from learner_worker.worker.ownership import Ownership
from learner_worker.worker.partition_ends import PartitionEnds
from learner_worker.worker.rollback import Rollback

_POLL_MS = 100
"""Longest delay until the loop notices a newly opened shard: short beside a restore."""
POLL_RECORDS = 1_000
"""The client creates the record objects of a poll in one step: more would stall the event loop."""
_LAST_POLL_SECONDS = 1.0
"""Several polls' time: aiokafka leaks a future per cancelled poll, so the last one may end by itself."""
_READING = "reading"
_log = structlog.get_logger("learner_worker.stream")


class EventConsumer:
    """Reads the topics of this replica's shards."""

    def __init__(
        self,
        *,
        consumer: AIOKafkaConsumer,
        ownership: Ownership,
        membership: Membership,
        writer: BatchWriter,
        checkpointer: Checkpointer,
        rollback: Rollback,
        failure: WorkerFailure,
        outage: Outage,
    ) -> None:
        self._consumer = consumer
        self._ownership = ownership
        self._membership = membership
        self._writer = writer
        self._checkpointer = checkpointer
        self.rollback = rollback
        self._failure = failure
        self.outage = outage
        self._ends = PartitionEnds(consumer=consumer, ownership=ownership)
        self._left_poll_at: float | None = time.monotonic()

    @property
    def away_from_poll_seconds(self) -> float:
        """Seconds since the loop left its last poll; 0.0 while it polls.

        Time inside a poll does not count: it lasts as long as an outage or a rebalance.
        """
        return 0.0 if self._left_poll_at is None else time.monotonic() - self._left_poll_at

    async def reading(self) -> Reading:
        """The progress of reading events, for the watchdog."""
        return await look("events", self._consumer, self._ownership.positions(), self.outage)

    async def read(self, stopping: asyncio.Event) -> None:
        """Polls and processes until `stopping` is set.

        Raises:
            LearnerError: a shard could not be opened, read or written.
        """
        stop_requested = asyncio.create_task(stopping.wait(), name="stop-requested")
        try:
            while not stopping.is_set():
                self._failure.raise_if_any()
                self._seek_wanted()
                epoch = self._ownership.epoch
                polled = await self._poll_until(stop_requested)
                async with self._ownership.processing:
                    if epoch == self._ownership.epoch:
                        await self._process(polled, epoch)
        finally:
            stop_requested.cancel()

    async def _poll_until(self, stop_requested: asyncio.Future[Any]) -> PollResult:
        """Polls, but stops waiting on a failure or a stop: a poll lasts as long as a rebalance does."""
        self._left_poll_at = None
        poll = asyncio.create_task(self._poll(), name="poll")
        try:
            ends: set[asyncio.Future[Any]] = {poll, self._failure.happened, stop_requested}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            self._failure.raise_if_any()
            if not poll.done():
                await asyncio.wait({poll}, timeout=_LAST_POLL_SECONDS)
            return poll.result() if poll.done() else PollResult()
        finally:
            poll.cancel()
            self._left_poll_at = time.monotonic()

    async def _poll(self) -> PollResult:
        polled = PollResult()
        try:
            polled = await self._records()
        except NoOffsetForPartitionError:  # polled after the assignment, before our listener ran
            await asyncio.sleep(_POLL_MS / 1000)
        except OffsetOutOfRangeError as error:
            await self.on_offset_out_of_range(error)
        except GroupAuthorizationFailedError as error:  # the client would repeat it for ever
            self.outage.failed(_READING, error)
            raise StuckError(str(failure("the group cannot be read", error))) from error
        except KafkaError as error:
            self._seek_back()
            await self._membership.end_if_replaced()  # a duplicate instance id has no error of its own
            await asyncio.sleep(self.outage.failed(_READING, error))
        else:
            self.outage.worked(_READING)
        return polled

    async def on_offset_out_of_range(self, error: OffsetOutOfRangeError) -> None:
        """Handles records that Kafka has deleted or lost: shards are checkpointed, closed and reopened.

        The checkpoint comes first: memory may hold the only copy of what was lost.
        """
        _log.error(
            "records.lost", positions=_by_name(error), error="Kafka has deleted or lost the next records"
        )
        await self._checkpointer.checkpoint()
        self.rollback.to_last_checkpoint(error)

    async def _records(self) -> PollResult:
        try:
            return PollResult(await self._consumer.getmany(timeout_ms=_POLL_MS, max_records=POLL_RECORDS))
        except UnicodeDecodeError:
            self._seek_back()
            return await read_one_by_one(self._consumer, list(self._ownership.reading))

    def _seek_back(self) -> None:
        """Seeks to the shards' positions: a poll that fails has moved past records of other partitions."""
        seek(self._consumer, self._ownership.positions())

    async def _process(self, polled: PollResult, epoch: int) -> None:
        try:
            await self._route(polled, epoch)
            await self._writer.send()
        except SendError as error:
            self.rollback.to_last_checkpoint(error)
            return
        await self._ends.look_now_and_then(epoch, idle=not polled.batches)

    async def _route(self, polled: PollResult, epoch: int) -> None:
        """Passes every batch to its shard, until a new epoch begins."""
        for partition, records in polled.batches.items():
            if epoch != self._ownership.epoch:
                return
            shard = self._ownership.shards.get(ShardId(partition.partition))
            if shard is not None and partition in self._ownership.reading:
                await shard.process(TopicName(partition.topic), records)
        if polled.gap is not None and epoch == self._ownership.epoch:
            self._step_over(polled.gap)

    def _step_over(self, gap: Gap) -> None:
        shard = self._ownership.shards.get(ShardId(gap.partition.partition))
        if shard is not None and gap.partition in self._ownership.reading:
            shard.step_over(TopicName(gap.partition.topic), gap.offsets)

    def _seek_wanted(self) -> None:
        """Starts reading what the shards need: the changelog while they restore, then all topics."""
        self._ownership.note_restored()
        all_restored = all(shard.restored for shard in self._ownership.shards.values())
        for shard_id, shard in self._ownership.readable():
            for topic in shard.topics_to_read(all_restored=all_restored):
                self._start_reading(TopicPartition(topic, shard_id), shard)

    def _start_reading(self, partition: TopicPartition, shard: Shard) -> None:
        if partition not in self._ownership.reading and partition in self._consumer.assignment():
            self._consumer.seek(partition, shard.positions[TopicName(partition.topic)])
            self._consumer.resume(partition)
            self._ownership.reading.add(partition)


def _by_name(error: OffsetOutOfRangeError) -> dict[str, int]:
    positions: Mapping[TopicPartition, int] = error.args[0]
    return {f"{partition.topic}/{partition.partition}": offset for partition, offset in positions.items()}
