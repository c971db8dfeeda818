"""Handover of request partitions: the requests of a shard follow it to its owner.

A shard's requests are read here from its opening until the group assigns it to another replica. The old owner
commits what it has answered, and the new owner begins there.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from learner_worker.contract.fields import ShardId
from learner_worker.contract.times import record_micros
from learner_worker.contract.topics import TopicName
from learner_worker.kafka.polling import seek
from learner_worker.kafka.records import Record
from learner_worker.requests.clock import Clock
from learner_worker.requests.commits import KAFKA_SECONDS, OffsetCommits
from learner_worker.requests.in_flight import InFlightOffsets

_MICROS = 1_000_000  # microseconds in a second
_SKIPS_EVERY_SECONDS = 1.0
"""Between two look-ups of what may be skipped: they cost round trips, and expired requests cost little."""
_log = structlog.get_logger("learner_worker.requests")


class PartitionHandover:
    """The partitions that are read here, being left, or to be taken over."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        topic: TopicName,
        ttl_seconds: float,
        commits: OffsetCommits,
        clock: Clock,
    ) -> None:
        self._consumer = consumer
        self._topic = topic
        self._ttl_seconds = ttl_seconds
        self._commits = commits
        self._clock = clock
        self._owned: dict[ShardId, InFlightOffsets] = {}
        self._left: dict[ShardId, InFlightOffsets] = {}
        self._wanted: frozenset[ShardId] = frozenset()
        self._assignment_number = 0
        self._changes = 0
        self._skips_at = clock.monotonic()

    @property
    def owned(self) -> Mapping[ShardId, InFlightOffsets]:
        """The partitions that are read here."""
        return self._owned

    @property
    def all_offsets(self) -> Mapping[ShardId, InFlightOffsets]:
        """The partitions that are read here, and those that were left but are not committed yet."""
        return self._left | self._owned

    @property
    def pending(self) -> bool:
        """Whether partitions have to be left or taken over."""
        return bool(self._left) or self._wanted != self._owned.keys()

    @property
    def positions(self) -> dict[TopicPartition, int]:
        """The next offset of every partition that is read here."""
        return {self._partition(shard_id): offsets.position for shard_id, offsets in self._owned.items()}

    def is_new(self, assignment_number: int) -> bool:
        """Whether the group has made a new assignment since the last call of `own`."""
        return assignment_number != self._assignment_number

    def own(self, opened: frozenset[ShardId], assigned: frozenset[ShardId], assignment_number: int) -> None:
        """Sets the partitions to read from now on: those of the opened shards.

        A shard that is closed for a while but stays assigned to this replica continues at its position:
        answered requests must not be read again.
        """
        kept = frozenset[ShardId]() if self.is_new(assignment_number) else self._owned.keys() & assigned
        self._assignment_number = assignment_number
        self._wanted = assigned & (opened | kept)
        self._changes += 1
        self._leave(self._owned.keys() - self._wanted)

    def begin_anew(self) -> None:
        """Drops every partition: other members may have answered and committed later offsets."""
        self._leave(self._owned.keys())
        self._left.clear()

    async def take_over(self) -> None:
        """Assigns the wanted partitions: kept ones continue, new ones start where their last owner ended.

        Raises:
            KafkaError, TimeoutError: Kafka did not answer an offset lookup.
        """
        changes = self._changes
        await self._commits.wait_for_background()
        if self._left:
            await self._commits.commit(self.all_offsets)  # their new owners begin there
        starts = await self._starts()
        if changes != self._changes:  # the offsets found may be out of date
            return
        self._left.clear()
        self._owned |= {ShardId(place.partition): InFlightOffsets(start) for place, start in starts.items()}
        positions = self.positions
        self._consumer.assign(list(positions))
        seek(self._consumer, positions)
        _log.info("lane.owns", shards=sorted(self._owned))

    async def skip_expired(self, polled: Mapping[TopicPartition, Sequence[Record]]) -> int:
        """Skips the unread requests that have expired by their record times, if the newest read one has.

        A backlog may grow faster than it is read, and nobody waits any more for what is skipped.

        Returns:
            How many requests were skipped.

        Raises:
            KafkaError, TimeoutError: Kafka did not answer an offset lookup.
        """
        expired = self._clock.now() - round(self._ttl_seconds * _MICROS)
        late = [place for place, records in polled.items() if record_micros(records[-1].timestamp) < expired]
        if not late or self._clock.monotonic() < self._skips_at:
            return 0
        self._skips_at = self._clock.monotonic() + _SKIPS_EVERY_SECONDS
        changes = self._changes
        starts = await self._living(late)
        if changes != self._changes:  # the partitions may be left, or taken over by now
            return 0
        skipped = 0
        for place in starts.keys() & self.positions.keys():
            offsets = self._owned[ShardId(place.partition)]
            skipped += max(0, starts[place] - offsets.position)
            offsets.skip_to(starts[place])
            self._consumer.seek(place, offsets.position)
        if skipped:
            _log.warning("requests.skipped", shards=sorted(place.partition for place in late), count=skipped)
        return skipped

    async def _starts(self) -> Mapping[TopicPartition, int]:
        return await self._living(
            [self._partition(shard_id) for shard_id in sorted(self._wanted - self._owned.keys())]
        )

    async def _living(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The first request of each partition that may still be answered here."""
        if not partitions:
            return {}
        oldest_ms = int(self._clock.now() / 1000 - self._ttl_seconds * 1000)
        async with asyncio.timeout(KAFKA_SECONDS):
            return await start_offsets(self._consumer, partitions, oldest_ms)

    def _leave(self, shard_ids: Collection[ShardId]) -> None:
        """Releases partitions: requests already read from them are not answered here, even if they return."""
        for shard_id in list(shard_ids):
            self._left[shard_id] = self._owned.pop(shard_id)
            self._left[shard_id].owned = False

    def _partition(self, shard_id: ShardId) -> TopicPartition:
        return TopicPartition(self._topic, shard_id)


async def start_offsets(
    consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition], oldest_ms: int
) -> dict[TopicPartition, int]:
    """The start offset of each partition: the later of the committed offset and the oldest live request's.

    The end offsets must be looked up first: a request that arrives between the two lookups is then found by
    its time or has an offset at or after the end. In the other order it would be skipped.
    """
    ends = await consumer.end_offsets(list(partitions))
    found = await consumer.offsets_for_times(dict.fromkeys(partitions, oldest_ms))
    committed = {partition: await consumer.committed(partition) for partition in partitions}
    return {
        partition: max(
            found[partition].offset if found.get(partition) else ends[partition],
            min(committed[partition] or 0, ends[partition]),
        )
        for partition in partitions
    }
