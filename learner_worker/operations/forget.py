"""Forgets an agent, in three steps, each of which may be repeated.

1. The marker is written to the agent's partition of the changelog and acknowledged: every replica that
   reads it forgets the agent.
2. The partition is read once, and the facts that the marker supersedes are tombstoned. The owner does
   so for the facts of the rows it sweeps and for those it reads later, but facts that others had superseded
   have no row. A tombstone states that a fact is before a marker, which never expires: that is
   true whoever sends it and however late. What is left of a fact is acknowledged first.
3. The command waits for the owner's checkpoint after the marker, and for the metrics record it wrote.
"""

import asyncio
import itertools
from collections.abc import Iterable
from typing import Final

import msgspec
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from learner_worker.contract.facts import (
    Fact,
    ForgetMarker,
    decode_outcome_record,
    encode_fact,
    encode_marker,
)
from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName, TopicNames
from learner_worker.domain.outcomes import forgotten_cutoff, living_fact
from learner_worker.errors import RecordError
from learner_worker.group.commits import own_commits
from learner_worker.kafka.admin import Cluster
from learner_worker.kafka.batching import send_single
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.kafka.partition_reader import PartitionReader
from learner_worker.kafka.records import Outgoing, Record
from learner_worker.refusals.denials import failure

_AT_ONCE: Final = 1_000
"""Tombstones sent before their acknowledgements are awaited: bounds memory, and keeps batches full."""
_POLL_SECONDS: Final = 0.2  # short beside a checkpoint interval


class SupersededFacts:
    """The facts of an agent that its marker supersedes, by key.

    Attributes:
        due_tombstones: keys to tombstone, each with what is left of its fact, which has to be
            sent and acknowledged before.
    """

    def __init__(self, marker: ForgetMarker) -> None:
        self.due_tombstones: dict[bytes, Fact | None] = {}
        self._agent_id = marker.agent_id
        self._cutoff = forgotten_cutoff(marker.forget_until)

    def take(self, records: Iterable[Record]) -> None:
        """Processes records of the agent's partition, in order.

        Raises:
            UpgradeRequiredError: a newer version of the learner wrote one.
        """
        for record in records:
            if record.key is None:
                continue
            if record.value is None:
                self.due_tombstones.pop(record.key, None)
            elif (fact := self._fact_in(record.value)) is not None:
                left = living_fact(fact, self._cutoff)
                if left is not fact:
                    self.due_tombstones[record.key] = left

    def _fact_in(self, value: bytes) -> Fact | None:
        try:
            found = decode_outcome_record(value)
        except RecordError:
            return None
        return found if isinstance(found, Fact) and found.agent_id == self._agent_id else None


class _Published(msgspec.Struct):
    total_bids: int
    outcome_offset: int


class PublishedMetrics:
    """An agent's record in the metrics topic, as of the last read."""

    def __init__(self, reader: PartitionReader, partition: TopicPartition, agent_id: str) -> None:
        self._reader = reader
        self._partition = partition
        self._key = agent_id.encode()
        self._position = 0
        self._value: bytes | None = None

    async def read(self) -> None:
        """Reads on to the topic's current end.

        Raises:
            BrokerError: Kafka does not answer.
        """
        start, end = await self._reader.range_of(self._partition)
        unread = OffsetRange(max(start, self._position), end)
        async for batch in self._reader.records(self._partition, unread):
            for record in batch:
                if record.key == self._key:
                    self._value = record.value
        self._position = end

    @property
    def total_bids(self) -> int | None:
        """The number of outcomes that it counts; None without a record."""
        found = self._found()
        return None if found is None else found.total_bids

    def covers(self, offset: int) -> bool:
        """Whether the record covers a changelog offset, or is deleted."""
        found = self._found()
        return found is None or found.outcome_offset >= offset

    def _found(self) -> _Published | None:
        try:
            return None if self._value is None else msgspec.json.decode(self._value, type=_Published)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None


class Forgetting:
    """Runs the steps for one agent."""

    def __init__(
        self, marker: ForgetMarker, topics: TopicNames, shard: ShardId, reader: PartitionReader
    ) -> None:
        self._marker = marker
        self._changelog = TopicPartition(topics.outcomes, shard)
        self._reader = reader
        self.metrics = PublishedMetrics(reader, TopicPartition(topics.metrics, shard), marker.agent_id)
        self.offset: int | None = None

    async def superseded(self) -> SupersededFacts:
        """Reads the facts in the changelog that the marker supersedes.

        Raises:
            BrokerError: Kafka does not answer.
        """
        superseded = SupersededFacts(self._marker)
        offsets = await self._reader.range_of(self._changelog)
        async for batch in self._reader.records(self._changelog, offsets):
            superseded.take(batch)
        return superseded

    async def write_marker(self, producer: AIOKafkaProducer) -> None:
        """Step 1: writes the marker.

        Raises:
            BrokerError: Kafka did not acknowledge it.
        """
        self.offset = (await self._send(producer, [encode_marker(self._marker)]))[-1]

    async def tombstone_superseded(self, producer: AIOKafkaProducer) -> int:
        """Step 2: tombstones superseded facts; returns their number.

        Raises:
            BrokerError: Kafka did not acknowledge a record; others may have been written.
        """
        due_tombstones = (await self.superseded()).due_tombstones
        await self._send(
            producer, [encode_fact(left) for left in due_tombstones.values() if left is not None]
        )
        await self._send(producer, [(key, None) for key in due_tombstones])
        return len(due_tombstones)

    async def in_effect(
        self, cluster: Cluster, group_id: str, *, incarnation: str | None, wait_seconds: float
    ) -> bool:
        """Step 3: waits until the shard's owner has forgotten the agent; False if it takes too long.

        Args:
            incarnation: that of the topics; commits that name another one are ignored.

        Raises:
            BrokerError: Kafka does not answer.
        """
        deadline = asyncio.get_running_loop().time() + wait_seconds
        while not await self._is_in_effect(cluster, group_id, incarnation):
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(_POLL_SECONDS)
        return True

    async def _is_in_effect(self, cluster: Cluster, group_id: str, incarnation: str | None) -> bool:
        if self.offset is None:
            return False
        committed = own_commits(await cluster.committed(group_id), incarnation).get(self._changelog)
        if committed is None or committed.offset <= self.offset:
            return False
        await self.metrics.read()
        return self.metrics.covers(self.offset)

    async def _send(
        self, producer: AIOKafkaProducer, records: Iterable[tuple[bytes, bytes | None]]
    ) -> list[int]:
        """Sends records to the changelog, waits for their acknowledgement, and returns their offsets."""
        topic, shard = TopicName(self._changelog.topic), self._changelog.partition
        offsets: list[int] = []
        remaining = iter(records)
        try:
            while chunk := list(itertools.islice(remaining, _AT_ONCE)):
                found = [Outgoing(topic, shard, key, value) for key, value in chunk]
                sends = (send_single(producer, record) for record in found)
                offsets += [metadata.offset for metadata in await asyncio.gather(*sends)]
        except (KafkaError, TimeoutError) as error:
            what = f"Kafka did not accept a record for {topic}"
            raise failure(what, error, "repeat the command, which is safe") from error
        return offsets
