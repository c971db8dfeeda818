"""Warm standbys: this replica follows the changelog of shards that others own.

A consumer of their own, assigned by hand and made when the first standby comes: they never slow the owned
shards' fetches. One loop does everything, so a shard is never read and let go of at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Generic, Protocol, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from prometheus_client import Gauge

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName
from learner_worker.errors import BrokerError
from learner_worker.kafka.admin import ends_of, start_within
from learner_worker.kafka.batching import stop_within
from learner_worker.kafka.outage import Outage
from learner_worker.kafka.polling import poll, seek
from learner_worker.kafka.records import Record
from learner_worker.kafka.watchdog import Reading, look

_POLL_MS = 100
_POLL_RECORDS = 1_000
_CHECKPOINT_SECONDS = 1.0
_START_SECONDS = 10.0
_POSITION_SECONDS = 5.0
_NAME = "standbys"
_log = structlog.get_logger("learner_worker.stream")


class Standby(Protocol):
    """What the loop needs of a standby."""

    @property
    def position(self) -> int:
        """The next changelog offset to read."""
        ...

    def skip_to(self, position: int) -> None:
        """Moves over offsets that hold no record."""
        ...

    def start_anew(self, first: int, end: int) -> None:
        """Reads the changelog from its beginning: it lost what the position stood for."""
        ...

    async def process(self, records: list[Record]) -> None:
        """Takes changelog records in."""
        ...

    async def checkpoint(self) -> None:
        """Writes rows and position."""
        ...

    async def close(self) -> None:
        """Writes what is left and lets go of the file."""
        ...


StandbyT = TypeVar("StandbyT", bound=Standby)


class Standbys(Generic[StandbyT]):
    """The shards this replica follows, and the loop that does.

    Args:
        make_consumer: a consumer without a group.
        open_standby: opens a shard's file to follow its changelog.
        in_use: the shards whose files are open here otherwise: those are followed when they are let go of.
        left: the gauge of changelog records still to be read, by shard.
    """

    def __init__(
        self,
        *,
        make_consumer: Callable[[], AIOKafkaConsumer],
        topic: TopicName,
        open_standby: Callable[[ShardId], Awaitable[StandbyT]],
        in_use: Callable[[], Collection[ShardId]],
        outage: Outage,
        left: Gauge,
    ) -> None:
        self._make_consumer = make_consumer
        self._topic = topic
        self._open_standby = open_standby
        self._in_use = in_use
        self._outage = outage
        self._left = left
        self._consumer: AIOKafkaConsumer | None = None
        self._wanted: frozenset[ShardId] = frozenset()
        self._open: dict[ShardId, StandbyT] = {}
        self._turn = asyncio.Lock()
        self._checkpointed_at = 0.0

    def follow(self, shards: frozenset[ShardId]) -> None:
        """Says which shards to follow from now on."""
        self._wanted = shards

    @property
    def positions(self) -> Mapping[ShardId, int]:
        """How far the rows of the followed shards reach."""
        return {number: standby.position for number, standby in self._open.items()}

    async def reading(self) -> Reading:
        """How far the followed changelogs are read, for the watchdog."""
        return await look(_NAME, self._consumer, self._positions(), self._outage)

    async def settle(self) -> None:
        """Lets go of what is not to be followed any more: no file is ahead of what Kafka says next."""
        async with self._turn:
            await self._let_go([number for number in self._open if number not in self._wanted])

    async def release(self, number: ShardId) -> None:
        """Lets go of a shard's file, which is in use from now on: this replica is about to own the shard.

        What `settle` has let go of may be followed again by now: of a new placement the group tells this
        replica's standbys first, and its owned shards a moment later.
        """
        async with self._turn:
            await self._let_go([number])

    async def read(self, stopping: asyncio.Event) -> None:
        """Follows until told to stop.

        Raises:
            StateError: a file cannot be read or written.
        """
        try:
            while not stopping.is_set():
                async with self._turn:
                    pause_seconds = await self._one_turn()
                await asyncio.sleep(pause_seconds)
        finally:
            await self._close()

    async def _one_turn(self) -> float:
        """Reads once; how long to wait before the next time."""
        wanted = self._wanted.difference(self._in_use())
        if wanted == self._open.keys() == set():
            self._outage.worked(_NAME)  # with nothing to follow nothing fails
            return _POLL_MS / 1000
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
        return pause_seconds

    async def _checkpoint_when_due(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._checkpointed_at >= _CHECKPOINT_SECONDS:
            self._checkpointed_at = now
            for standby in self._open.values():
                await standby.checkpoint()

    async def _started(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            consumer = self._make_consumer()
            try:
                await start_within(consumer, _START_SECONDS)
            except BaseException:
                await stop_within(consumer)
                raise
            self._consumer = consumer
        return self._consumer

    async def _follow_only(self, wanted: frozenset[ShardId], consumer: AIOKafkaConsumer) -> None:
        if wanted == self._open.keys():
            return
        await self._let_go(self._open.keys() - wanted)
        for number in sorted(wanted - self._open.keys()):
            if number not in self._in_use():  # while another file was opened this one may have been taken
                self._open[number] = await self._open_standby(number)
        self._assign(consumer)
        _log.info("standbys.follow", shards=sorted(self._open))

    async def _take(self, consumer: AIOKafkaConsumer) -> None:
        if not self._open:
            return
        try:
            # A record that the client cannot decode is its owner's to tell of.
            polled = await poll(consumer, self._positions(), timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
        except OffsetOutOfRangeError as error:
            await self._start_anew(consumer, error.args[0])
            return
        for partition, records in polled.batches.items():
            await self._open[ShardId(partition.partition)].process(records)
        async with asyncio.timeout(_POSITION_SECONDS):
            for number, standby in self._open.items():
                await self._note_position(consumer, number, standby)

    async def _note_position(self, consumer: AIOKafkaConsumer, number: ShardId, standby: StandbyT) -> None:
        partition = self._partition(number)
        standby.skip_to(max(standby.position, await consumer.position(partition)))
        highwater = consumer.highwater(partition)
        if highwater is not None:
            self._left.labels(number).set(max(0, highwater - standby.position))

    async def _start_anew(self, consumer: AIOKafkaConsumer, refused: Iterable[TopicPartition]) -> None:
        """The changelog lost its beginning or its end; aiokafka may tell of a partition just let go of."""
        followed = [partition for partition in refused if ShardId(partition.partition) in self._open]
        for partition, (first, end) in (await ends_of(consumer, followed)).items():
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

    async def _let_go(self, numbers: Collection[ShardId]) -> None:
        """Closes the files of those that are open; all of them, even if one cannot be written any more."""
        closing = [number for number in numbers if number in self._open]
        async with AsyncExitStack() as closings:
            for number in closing:
                self._left.remove(number)
                closings.push_async_callback(self._open.pop(number).close)
            if self._consumer is not None and closing:
                self._assign(self._consumer)

    def _assign(self, consumer: AIOKafkaConsumer) -> None:
        positions = self._positions()
        consumer.assign(list(positions))
        seek(consumer, positions)

    def _positions(self) -> dict[TopicPartition, int]:
        return {self._partition(number): standby.position for number, standby in self._open.items()}

    async def _close(self) -> None:
        async with self._turn, AsyncExitStack() as closings:
            self._wanted = frozenset()
            if self._consumer is not None:
                closings.push_async_callback(stop_within, self._consumer)
            await self._let_go(self._open.copy())

    def _partition(self, number: ShardId) -> TopicPartition:
        return TopicPartition(self._topic, number)
