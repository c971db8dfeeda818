"""What a reshard needs of Kafka, and one empty file at a time; a simulation has its own."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from aiokafka import TopicPartition

from learner_worker.contract.topics import TopicName, TopicNames
from learner_worker.contract.topology import Topology
from learner_worker.kafka.admin import Committed
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.kafka.records import Outgoing, Record
from learner_worker.store.shard_file import ShardFile


class ClusterAccess(Protocol):
    """A cluster's topics, groups and record, as an administrator of the learner sees them.

    Every method raises BrokerError if Kafka does not answer or refuses.
    """

    async def topology(self) -> Topology:
        """The record in effect."""
        ...

    async def write(self, topology: Topology) -> Topology:
        """Writes a record, and reads which one is in effect: of several writers' the first."""
        ...

    async def counts(self, topics: Collection[TopicName]) -> Mapping[TopicName, int]:
        """The partition counts of those topics that exist."""
        ...

    async def create(self, new: TopicNames, old: TopicNames, shards: int) -> None:
        """Creates those of the new layout's topics that do not exist, configured as the old ones are."""
        ...

    async def raise_counts(self, topics: Sequence[TopicName], shards: int) -> None:
        """Raises the topics' partition counts."""
        ...

    async def until_empty(self, group_id: str) -> None:
        """Waits until a group has no members."""
        ...

    async def committed(self, group_id: str) -> Mapping[TopicPartition, Committed]:
        """A group's commits."""
        ...

    async def commit(self, group_id: str, offsets: Mapping[TopicPartition, Committed]) -> None:
        """Commits offsets for a group without members."""
        ...

    async def ranges(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, OffsetRange]:
        """The offset ranges that partitions hold now."""
        ...

    def records(self, partition: TopicPartition, offsets: OffsetRange) -> AsyncIterator[Sequence[Record]]:
        """Reads an offset range, in batches."""
        ...

    async def send(self, records: Sequence[Outgoing]) -> None:
        """Writes records; returns when Kafka has acknowledged all of them."""
        ...

    def empty_file(self) -> AbstractAsyncContextManager[ShardFile]:
        """A temporary file for rows."""
        ...
