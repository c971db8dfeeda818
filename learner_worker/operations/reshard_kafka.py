"""A reshard's access to a real cluster."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from learner_worker.contract.topics import TopicName, TopicNames
from learner_worker.contract.topology import Topology
from learner_worker.errors import BrokerError, Mismatch
from learner_worker.group.takeover import until_empty
from learner_worker.group.topology_view import TopologyView, topology_view
from learner_worker.interface.rights import RightOperation
from learner_worker.kafka.admin import Committed
from learner_worker.kafka.batching import send_single
from learner_worker.kafka.clients import bulk_producer, running
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.kafka.records import Outgoing, Record, chunked
from learner_worker.kafka.rights import needed_rights, require_rights
from learner_worker.refusals.denials import failure
from learner_worker.store.shard_file import ShardFile

_START_SECONDS = 30.0  # as long as a worker's client is given to start
_AT_ONCE = 2_000  # records whose acknowledgements are awaited together: a few MB
_OF_PARTITIONS = ("leader.replication.throttled.replicas", "follower.replication.throttled.replicas")
"""Settings of a topic that name its partitions: they say nothing about another number of them."""
_COMMITS_AT_ONCE = 2_000  # Kafka takes a request of at most a few MB


class KafkaAccess:
    """Topics, groups and the record of a running cluster.

    Args:
        replication_factor: of the topics it creates; None for that of a new cluster.
    """

    def __init__(
        self,
        connection: Connection,
        view: TopologyView,
        producer: AIOKafkaProducer,
        replication_factor: int | None,
    ) -> None:
        self._connection = connection
        self._producer = producer
        self._replication_factor = replication_factor
        self.view = view

    async def topology(self) -> Topology:
        """The record in effect."""
        topology = await self.view.standing()
        if topology is None:
            raise Mismatch(
                f"{self.view.names.topology} holds no record", "`learner-worker topics create` writes it"
            ).error()
        return topology

    async def write(self, topology: Topology) -> Topology:
        """Writes a record, and reads which one is in effect: of several writers' the first."""
        return await self.view.write(topology)

    async def counts(self, topics: Collection[TopicName]) -> Mapping[TopicName, int]:
        """The partition counts of those topics that exist."""
        return await self.view.cluster.partitions(topics)

    async def require_rights(
        self, owner: str | None, layout: int, *, only: RightOperation | None = None
    ) -> None:
        """Refuses to change anything for a user that would be refused later.

        Args:
            owner: the group that owns the topics.
            layout: the number of the layout that is to be replaced, or was.
            only: the operation that is still needed; None for all.

        Raises:
            RefusedError: rights are missing; all of them are named.
        """
        if owner is not None:
            needed = needed_rights(self.view.names, owner, "resharder", layout)
            await require_rights(
                self._connection,
                self.view.cluster,
                [right for right in needed if only in {None, right.operation}],
                who="reshard",
                remedy=f"`learner-worker acls print --role resharder --layout {layout}` prints all of them",
            )

    async def create(self, new: TopicNames, old: TopicNames, shards: int) -> None:
        """Creates those of the new layout's topics that do not exist, configured as the old ones are."""
        found = await self.view.cluster.own_configuration(old.of_one_layout)
        configured = {
            topic: {name: value for name, value in found[before].items() if name not in _OF_PARTITIONS}
            for topic, before in zip(new.of_one_layout, old.of_one_layout, strict=True)
        }
        await self.view.cluster.create_topics(
            new,
            partitions=shards,
            replication_factor=self._replication_factor,
            only=new.of_one_layout,
            configured=configured,
        )

    async def raise_counts(self, topics: Sequence[TopicName], shards: int) -> None:
        """Raises the topics' partition counts."""
        await self.view.cluster.raise_partitions(topics, shards)

    async def until_empty(self, group_id: str) -> None:
        """Waits until a group has no members."""
        await until_empty(self.view.cluster, group_id, "")

    async def committed(self, group_id: str) -> Mapping[TopicPartition, Committed]:
        """A group's commits."""
        try:
            return await self.view.cluster.committed(group_id)
        except (KafkaError, TimeoutError) as error:
            raise failure(f"the commits of group {group_id} cannot be read", error) from error

    async def commit(self, group_id: str, offsets: Mapping[TopicPartition, Committed]) -> None:
        """Commits offsets for a group without members."""
        try:
            for chunk in chunked(list(offsets.items()), _COMMITS_AT_ONCE):
                await self.view.commit(group_id, dict(chunk))
        except (KafkaError, TimeoutError) as error:
            raise BrokerError(
                f"Kafka did not take the commits of group {group_id} ({error!r}): it may have members; stop "
                "whatever else uses it, then start the command again"
            ) from error

    async def ranges(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, OffsetRange]:
        """The offset ranges that partitions hold now."""
        return await self.view.ranges(partitions)

    def records(self, partition: TopicPartition, offsets: OffsetRange) -> AsyncIterator[Sequence[Record]]:
        """Reads an offset range, in batches."""
        return self.view.records(partition, offsets)

    async def send(self, records: Sequence[Outgoing]) -> None:
        """Writes records; returns when Kafka has acknowledged all of them."""
        try:
            for chunk in chunked(records, _AT_ONCE):
                await asyncio.gather(*(send_single(self._producer, record) for record in chunk))
        except (KafkaError, TimeoutError) as error:
            what = f"Kafka did not accept a record for {records[0].topic}"
            raise failure(what, error, "start the command again, it goes on") from error

    @asynccontextmanager
    async def empty_file(self) -> AsyncIterator[ShardFile]:
        """A temporary file for rows."""
        with tempfile.TemporaryDirectory(prefix="learner-reshard-") as folder:
            file = await ShardFile.open(Path(folder) / "rows.sqlite3", {})
            try:
                yield file
            finally:
                await file.close()


@asynccontextmanager
async def kafka_access(
    connection: Connection,
    names: TopicNames,
    *,
    patience_seconds: float,
    replication_factor: int | None = None,
) -> AsyncIterator[KafkaAccess]:
    """Connects.

    Raises:
        BrokerError: Kafka cannot be reached.
    """
    async with AsyncExitStack() as stack:
        view = await stack.enter_async_context(
            topology_view(connection, names, patience_seconds=patience_seconds)
        )
        producer = await stack.enter_async_context(running(bulk_producer(connection), _START_SECONDS))
        yield KafkaAccess(connection, view, producer, replication_factor)
