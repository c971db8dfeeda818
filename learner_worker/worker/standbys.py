"""Warm standbys: this replica follows the changelog of shards that others own.

They have their own consumer, manually assigned and created with the first standby, so that they never slow
down the owned shards' fetches. One loop does everything, so a shard is never read while it is being released.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AsyncExitStack

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from prometheus_client import Gauge

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName
from learner_worker.errors import BrokerError
from learner_worker.kafka.clients import start_client, stop_client
from learner_worker.kafka.offsets import offset_ranges
from learner_worker.kafka.outage import Outage
from learner_worker.kafka.polling import poll, seek
from learner_worker.kafka.watchdog import Reading, look
from learner_worker.shard.standby import StandbyState
from learner_worker.worker.freeing import free_in_background
from learner_worker.worker.ownership import Ownership
from learner_worker.worker.standby_files import StandbyFiles

_POLL_MS = 100
"""Longest delay until the loop notices a new assignment of standbys: an owner waits that long for a file."""
_POLL_RECORDS = 1_000
"""The client creates the record objects of a poll in one step: more would stall the event loop."""
_CHECKPOINT_SECONDS = 1.0
"""Bounds the changelog that a standby reads again after a crash; more often would only cost writes."""
_START_SECONDS = 10.0
"""Time limit for starting the consumer: beyond a broker's usual answer it counts as an outage."""
_POSITION_SECONDS = 5.0
"""Time limit for the consumer's positions, which never come while Kafka is unreachable."""
_NAME = "standbys"
_log = structlog.get_logger("learner_worker.stream")


class Standbys:
    """The shards that this replica follows, and the loop that reads them.

    Args:
        make_consumer: a consumer without a group.
        topic: the changelog.
        files: opens the shards' files.
        ownership: knows which files owned shards use: those shards are followed once their files are closed.
        left: gauge of changelog records still to be read, by shard.
        idle_seconds: pause of the loop while there is nothing to follow.
    """

    def __init__(
        self,
        *,
        make_consumer: Callable[[], AIOKafkaConsumer],
        topic: TopicName,
        files: StandbyFiles,
        ownership: Ownership,
        outage: Outage,
        left: Gauge,
        idle_seconds: float = _POLL_MS / 1000,
    ) -> None:
        self._make_consumer = make_consumer
        self._topic = topic
        self._ownership = ownership
        self._outage = outage
        self._left = left
        self._files = files
        self._idle_seconds = idle_seconds
        self._consumer: AIOKafkaConsumer | None = None
        self._open: dict[ShardId, StandbyState] = {}
        self._turn = asyncio.Lock()
        self._checkpointed_at = 0.0
        self.wanted: frozenset[ShardId] = frozenset()
        """The shards to follow; those whose files are in use follow later."""

    def follow(self, shards: frozenset[ShardId]) -> None:
        """Sets the shards to follow from now on."""
        self.wanted = shards

    @property
    def positions(self) -> Mapping[ShardId, int]:
        """The changelog position of each followed shard."""
        return {shard_id: standby.position for shard_id, standby in self._open.items()}

    async def reading(self) -> Reading:
        """The progress of reading the followed changelogs, for the watchdog."""
        return await look(_NAME, self._consumer, self._positions(), self._outage)

    async def release_unwanted(self) -> None:
        """Closes the standbys that are not wanted, so that no file is ahead of the offsets read next."""
        async with self._turn:
            await self._files.give_up_others(self.wanted)
            await self._let_go([shard_id for shard_id in self._open if shard_id not in self.wanted])

    async def release(self, shard_id: ShardId) -> None:
        """Closes the standby of a shard that this replica is about to own.

        `release_unwanted` is not enough: a new placement announces this replica's standbys before its owned
        shards, so the shard may be followed again by now.
        """
        async with self._turn:
            await self._files.give_up([shard_id])
            await self._let_go([shard_id])

    async def read(self, stopping: asyncio.Event) -> None:
        """Reads the followed changelogs until `stopping` is set.

        Raises:
            StateError: a file cannot be read or written.
        """
        try:
            while not stopping.is_set():
                async with self._turn:
                    pause_seconds = await self.one_turn()
                await asyncio.sleep(pause_seconds)
        finally:
            await self._close()

    async def one_turn(self) -> float:
        """Reads once; returns the pause before the next turn, in seconds."""
        wanted = self.wanted.difference(self._ownership.in_use)
        if wanted == self._open.keys() == set():
            self._outage.worked(_NAME)  # an outage ends with the last standby
            return self._idle_seconds
        pause_seconds = 0.0
        try:
            consumer = await self._started()
            await self._follow_only(wanted, consumer)
            await self._take(consumer)
        except (KafkaError, BrokerError, TimeoutError) as error:
            pause_seconds = self._outage.failed(_NAME, error)
        else:
            self._outage.worked(_NAME)
        await self._checkpoint_when_due()
        return pause_seconds if self._open else max(pause_seconds, self._idle_seconds)

    async def _checkpoint_when_due(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._checkpointed_at >= _CHECKPOINT_SECONDS:
            self._checkpointed_at = now
            for standby in self._open.values():
                await standby.checkpoint()

    async def _started(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            consumer = self._make_consumer()
            await start_client(consumer, _START_SECONDS)
            self._consumer = consumer
        return self._consumer

    async def _follow_only(self, wanted: frozenset[ShardId], consumer: AIOKafkaConsumer) -> None:
        if wanted == self._open.keys():
            return
        await self._files.give_up_others(wanted)
        await self._let_go(self._open.keys() - wanted)
        ready = self._files.are_ready(wanted - self._open.keys())
        for shard_id in ready:
            # Checked again: while another file was being opened, this one may have come into use.
            if shard_id not in self._ownership.in_use:
                self._open[shard_id] = await self._files.open(shard_id)
        if ready:
            self._assign(consumer)
            _log.info("standbys.follow", shards=sorted(self._open))

    async def _take(self, consumer: AIOKafkaConsumer) -> None:
        if not self._open:
            return
        try:
            # A record that the client cannot decode is reported by the shard's owner.
            polled = await poll(consumer, self._positions(), timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
        except OffsetOutOfRangeError as error:
            await self._start_anew(consumer, error.args[0])
            return
        for partition, records in polled.batches.items():
            await self._open[ShardId(partition.partition)].process(records)
        for standby in self._open.values():
            await standby.backfill()
        async with asyncio.timeout(_POSITION_SECONDS):
            for shard_id, standby in self._open.items():
                await self._note_position(consumer, shard_id, standby)

    async def _note_position(
        self, consumer: AIOKafkaConsumer, shard_id: ShardId, standby: StandbyState
    ) -> None:
        partition = self._partition(shard_id)
        standby.skip_to(max(standby.position, await consumer.position(partition)))
        highwater = consumer.highwater(partition)
        if highwater is not None:
            self._left.labels(shard_id).set(max(0, highwater - standby.position))

    async def _start_anew(self, consumer: AIOKafkaConsumer, refused: Iterable[TopicPartition]) -> None:
        """Starts over where the changelog no longer has the position; ignores partitions just released."""
        followed = [partition for partition in refused if ShardId(partition.partition) in self._open]
        for partition, (first, end) in (await offset_ranges(consumer, followed)).items():
            standby = self._open[ShardId(partition.partition)]
            _log.warning(
                "standby.position_not_in_log",
                shard=partition.partition,
                position=standby.position,
                first=first,
                end=end,
            )
            standby.start_anew(first, end)
            consumer.seek(partition, first)

    async def _let_go(self, shard_ids: Collection[ShardId]) -> None:
        """Closes the given standbys that are open: all of them, even if one file cannot be written."""
        closing = [shard_id for shard_id in shard_ids if shard_id in self._open]
        async with AsyncExitStack() as closings:
            for shard_id in closing:
                self._left.remove(shard_id)
                standby = self._open.pop(shard_id)
                closings.callback(free_in_background, standby)  # once it is closed
                closings.push_async_callback(standby.close)
            if self._consumer is not None and closing:
                self._assign(self._consumer)

    def _assign(self, consumer: AIOKafkaConsumer) -> None:
        positions = self._positions()
        consumer.assign(list(positions))
        seek(consumer, positions)

    def _positions(self) -> dict[TopicPartition, int]:
        return {self._partition(shard_id): standby.position for shard_id, standby in self._open.items()}

    async def _close(self) -> None:
        async with self._turn, AsyncExitStack() as closings:
            self.wanted = frozenset()
            await self._files.give_up_others(())
            if self._consumer is not None:
                closings.push_async_callback(stop_client, self._consumer)
            await self._let_go(self._open.copy())

    def _partition(self, shard_id: ShardId) -> TopicPartition:
        return TopicPartition(self._topic, shard_id)
