"""The requests' own lane: a consumer assigned by hand; no answer waits behind a backlog of events."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName
from learner_worker.kafka.outage import Outage
from learner_worker.kafka.polling import Gap, PollResult, poll, seek
from learner_worker.kafka.records import Record
from learner_worker.kafka.watchdog import Reading, look

_POLL_MS = 50
_POLL_RECORDS = 1_000
"""Reading them takes less than the time that answering may take before the next are read."""
_COMMIT_EVERY_SECONDS = 1.0
_KAFKA_SECONDS = 10.0
_DOUBT_SECONDS = 0.5
_NAME = "requests"
_log = structlog.get_logger("learner_worker.lane")


class InFlightOffsets:
    """Which requests of one partition are done with; what may be committed is what no open one precedes."""

    def __init__(self, position: int) -> None:
        self.held = True
        """Whether the lane counts on it; if not, whoever has the shard now reads its requests again."""
        self.position = position
        self.committed = position
        self._open: dict[int, None] = {}

    def begin(self, offset: int) -> None:
        """A request was read."""
        self._open[offset] = None
        self.position = offset + 1

    def done(self, offset: int) -> None:
        """It was answered, and Kafka has the reply; or it needs none."""
        self._open.pop(offset, None)

    @property
    def safe(self) -> int:
        """The next offset to read after a restart."""
        return next(iter(self._open), self.position)


class Answerer(Protocol):
    """What answers."""

    def take(self, record: Record, offsets: InFlightOffsets) -> None:
        """Reads a request; calls `offsets.done` when Kafka has the reply."""
        ...

    async def serve(self) -> bool:
        """Answers what was read, for a while; whether there is more to answer."""
        ...


class RequestConsumer:
    """Reads the requests of the owned shards and commits them to a group of their own."""

    def __init__(
        self,
        *,
        consumer: AIOKafkaConsumer,
        topic: TopicName,
        ttl_seconds: float,
        answerer: Answerer,
        outage: Outage,
        stall_seconds: float,
        is_member: Callable[[], Awaitable[bool]],
    ) -> None:
        self._consumer = consumer
        self._topic = topic
        self._ttl_seconds = ttl_seconds
        self._answerer = answerer
        self._outage = outage
        self._stall_seconds = stall_seconds
        self._is_member = is_member
        self._placement = 0
        self._in_doubt = False
        self._wanted: frozenset[ShardId] = frozenset()
        self._changes = 0
        self._left: dict[ShardId, InFlightOffsets] = {}
        self._more = False
        self._offsets: dict[ShardId, InFlightOffsets] = {}
        self._committed_at = time.monotonic()
        self._committing: asyncio.Task[None] | None = None
        self.last_poll_seconds = time.monotonic()

    def own(self, opened: frozenset[ShardId], assigned: frozenset[ShardId], placement: int) -> None:
        """Says whose requests to answer from now on: those of the opened shards.

        A shard that is closed for a while, but stays this replica's, goes on where it is: what was answered
        must not be read again.

        Args:
            opened: the shards that are open.
            assigned: all that the group gave this replica.
            placement: by which of its placements.
        """
        if placement != self._placement and self._in_doubt:
            self._let_go(self._offsets.keys())  # others have answered meanwhile: begin where they ended
            self._left.clear()  # and may have committed more
            self._in_doubt = False
        kept = self._offsets.keys() & assigned if placement == self._placement else frozenset[ShardId]()
        self._placement = placement
        self._wanted = assigned & (opened | kept)
        self._changes += 1
        self._let_go(self._offsets.keys() - self._wanted)

    def _let_go(self, shards: Collection[ShardId]) -> None:
        """From now on nothing of these is answered here, also if they come back at once."""
        for shard in list(shards):
            self._left[shard] = self._offsets.pop(shard)
            self._left[shard].held = False

    async def reading(self) -> Reading:
        """How far the requests are read, for the watchdog; nothing while the group has to confirm us."""
        positions = {} if self._in_doubt else self._positions()
        return await look(_NAME, self._consumer, positions, self._outage)

    async def read(self, stopping: asyncio.Event) -> None:
        """Polls and answers until told to stop."""
        try:
            await self._read(stopping)
        finally:
            if self._committing is not None:  # `finish` commits as much, and more
                self._committing.cancel()

    async def _read(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            self._note_stall()
            try:
                if self._in_doubt and not await self._is_sure():
                    continue
                if self._left or self._wanted != self._offsets.keys():
                    await self._take_over()
                    continue
                await self._answer_batch()
                self._commit_now_and_then()
            except (KafkaError, TimeoutError) as error:
                pause_seconds = self._outage.failed(_NAME, error)
                # Not so long that it would be taken for a stall.
                await asyncio.sleep(min(pause_seconds, self._stall_seconds / 4))
            else:
                self._outage.worked(_NAME)

    def _note_stall(self) -> None:
        """A loop that stood still for long may have lost its shards without knowing it."""
        before, self.last_poll_seconds = self.last_poll_seconds, time.monotonic()
        stood_seconds = self.last_poll_seconds - before
        if stood_seconds > self._stall_seconds and not self._in_doubt:
            self._in_doubt = True
            _log.warning(
                "requests.held", stood_seconds=round(stood_seconds, 1), until="the group confirms us"
            )

    async def _is_sure(self) -> bool:
        """Whether the group still counts on this member: nothing is answered before that is known."""
        placement = self._placement
        if await self._is_member() and placement == self._placement:
            self._in_doubt = False
        else:
            await asyncio.sleep(_DOUBT_SECONDS)
        return not self._in_doubt

    async def finish(self) -> None:
        """Commits what is answered."""
        try:
            await self._commit_ends()
            await self._commit()
        except (KafkaError, TimeoutError) as error:
            _log.warning("lane.commit_failed", error=repr(error))

    async def _answer_batch(self) -> None:
        if not self._offsets:  # a consumer without an assignment would wait for one, not for a time
            await asyncio.sleep(_POLL_MS / 1000)
            return
        polled = await self._polled()
        self._note_stall()
        if self._in_doubt:  # what was polled may have been read just now, after the stall
            seek(self._consumer, self._positions())
            return
        for partition, records in polled.batches.items():
            if (offsets := self._offsets.get(ShardId(partition.partition))) is not None:
                self._take_all(records, offsets)
        if polled.gap is not None:
            self._step_over(polled.gap)
        self._more = await self._answerer.serve()

    async def _polled(self) -> PollResult:
        timeout_ms = 0 if self._more else _POLL_MS
        return await poll(self._consumer, self._positions(), timeout_ms=timeout_ms, max_records=_POLL_RECORDS)

    def _positions(self) -> dict[TopicPartition, int]:
        return {self._partition(shard): offsets.position for shard, offsets in self._offsets.items()}

    def _step_over(self, gap: Gap) -> None:
        """Nobody can be answered: the broken header may be the one that says where to."""
        _log.error(
            "requests.unreadable", partition=gap.partition.partition, first=gap.first, next=gap.following
        )
        offsets = self._offsets.get(ShardId(gap.partition.partition))
        if offsets is not None:
            offsets.position = max(offsets.position, gap.following)

    def _take_all(self, records: Sequence[Record], offsets: InFlightOffsets) -> None:
        for record in records:
            offsets.begin(record.offset)
            self._answerer.take(record, offsets)

    async def _take_over(self) -> None:
        """Assigns the wanted partitions: kept ones go on, new ones start where their last owner ended."""
        changes = self._changes
        await self._commit_ends()
        if self._left:
            await self._commit()  # who owns them now begins there
        new = [self._partition(shard) for shard in sorted(self._wanted - self._offsets.keys())]
        async with asyncio.timeout(_KAFKA_SECONDS):
            starts = await self._starts(new) if new else {}
        if changes != self._changes:  # what was found may be out of date
            return
        self._left.clear()
        self._offsets |= {
            ShardId(partition.partition): InFlightOffsets(start) for partition, start in starts.items()
        }
        positions = self._positions()
        self._consumer.assign(list(positions))
        seek(self._consumer, positions)
        _log.info("lane.owns", shards=sorted(self._offsets))

    async def _starts(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The later of what was committed and the oldest request that somebody may still wait for.

        The ends go first: a request that comes between the two lookups is found by its time, or lies behind
        the end. The other way round it would be neither found nor read.
        """
        oldest_ms = int((time.time() - self._ttl_seconds) * 1000)
        ends = await self._consumer.end_offsets(list(partitions))
        found = await self._consumer.offsets_for_times(dict.fromkeys(partitions, oldest_ms))
        committed = {partition: await self._consumer.committed(partition) for partition in partitions}
        return {
            partition: max(
                found[partition].offset if found.get(partition) else ends[partition],
                min(committed[partition] or 0, ends[partition]),
            )
            for partition in partitions
        }

    def _commit_now_and_then(self) -> None:
        """Commits beside the reading: no question waits for it.

        Raises:
            KafkaError, TimeoutError: the last one failed.
        """
        if self._committing is not None:
            if not self._committing.done():
                return
            committed, self._committing = self._committing, None
            committed.result()
        if self._in_doubt:  # others may have committed more meanwhile
            return
        if time.monotonic() - self._committed_at >= _COMMIT_EVERY_SECONDS:
            self._committed_at = time.monotonic()
            self._committing = asyncio.create_task(self._commit(), name="commit-requests")

    async def _commit_ends(self) -> None:
        """Waits for the commit under way: it knows of less than the next, and must not come after it."""
        committing, self._committing = self._committing, None
        if committing is None:
            return
        await asyncio.wait([committing])
        if not committing.cancelled() and (error := committing.exception()) is not None:
            _log.warning("lane.commit_failed", error=repr(error))

    async def _commit(self) -> None:
        moved = {
            shard: (offsets, offsets.safe)
            for shard, offsets in (self._left | self._offsets).items()
            if offsets.safe > offsets.committed
        }
        if not moved:
            return
        async with asyncio.timeout(_KAFKA_SECONDS):
            await self._consumer.commit(
                {self._partition(shard): OffsetAndMetadata(safe, "") for shard, (_, safe) in moved.items()}
            )
        for offsets, safe in moved.values():  # shards may have been let go of meanwhile
            offsets.committed = safe

    def _partition(self, shard: ShardId) -> TopicPartition:
        return TopicPartition(self._topic, shard)
