"""Reads a shard's changelog for verify and rebuild: checks its identity and replays it into a file."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from aiokafka import TopicPartition

from learner_worker.contract.facts import agent_of_key
from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName
from learner_worker.errors import ConfigurationError
from learner_worker.group.topology_view import Layout, read_layout
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.kafka.partition_reader import PartitionReader, reading_partitions
from learner_worker.kafka.partitioner import partitioner
from learner_worker.kafka.records import Record
from learner_worker.operations.progress import Progress
from learner_worker.settings import Settings
from learner_worker.shard.replay import ChangelogReplay
from learner_worker.store.former import is_former
from learner_worker.store.identity import GAINED, mismatch, shard_identity, stranger
from learner_worker.store.snapshot import Snapshot
from learner_worker.strategies.registry import find_strategies

Say = Callable[[str], None]


def _every(_: Record) -> bool:
    return True


class Changelog:
    """The changelog of a running cluster.

    Args:
        say: takes a line of progress.
    """

    def __init__(self, settings: Settings, layout: Layout, reader: PartitionReader, say: Say) -> None:
        self.topic: TopicName = layout.names.outcomes
        self.partitions = layout.shards
        self.group_id = layout.events_group(settings.given_group, settings.group_id)
        self.cached_agents = settings.cached_agents
        self.strategies = find_strategies(settings.strategy, settings.strategies)
        self._prefix = settings.topic_prefix
        self._layout = layout
        self._partition_of = partitioner(layout.shards)
        self._misplaced: Counter[ShardId] = Counter()
        self._reader = reader
        self._say = say

    def identity(self, shard: ShardId) -> dict[str, str]:
        """The identity that a shard's file must have."""
        topology = self._layout.topology
        return shard_identity(
            cluster_id=self._layout.cluster_id,
            topic_prefix=self._prefix,
            partitions=self.partitions,
            shard=shard,
            incarnation=self._layout.incarnation,
            generation=None if topology is None else topology.generation,
        )

    def require_same(self, file: Snapshot, shard: ShardId) -> None:
        """Refuses a file of somebody else.

        Raises:
            ConfigurationError: it belongs to another cluster, prefix, partition count or shard.
        """
        topology = self._layout.topology
        if topology is not None and is_former(file.identity(), topology):
            raise ConfigurationError(
                f"{file.path} is of the layout before a reshard: start its worker, which sets it aside"
            )
        expected = self.identity(shard)
        found = {**expected, **file.identity()}
        name = stranger(found, expected)
        if name in {"partitions", *GAINED}:
            raise mismatch(file.path, name, found, expected).error()
        if name is not None:
            raise ConfigurationError(
                f"{file.path} belongs to {name} {found[name]!r}, what Kafka and the settings name is "
                f"{expected[name]!r}: check --bootstrap-servers, --topic-prefix and --state-dir"
            )

    async def range_of(self, shard: ShardId) -> OffsetRange:
        """The offset range that the shard's partition holds now."""
        return await self._reader.range_of(TopicPartition(self.topic, shard))

    def misplaced(self, shard: ShardId) -> int:
        """How many records replayed so far are about agents that belong to another shard."""
        return self._misplaced[shard]

    def _belongs_elsewhere(self, record: Record) -> bool:
        if record.value is None:  # it says nothing of the agent any more
            return False
        agent_id = agent_of_key(record.key)
        return agent_id is not None and self._partition_of(agent_id) != record.partition

    def unreadable(self, shard: ShardId) -> list[str]:
        """The unreadable records of the shard's partition found so far, as one sentence each."""
        return list(map(str, self._reader.gaps.of(TopicPartition(self.topic, shard))))

    async def replay(
        self,
        replay: ChangelogReplay,
        shard: ShardId,
        offsets: OffsetRange,
        *,
        wanted: Callable[[Record], bool] = _every,
    ) -> None:
        """Replays the partition's records in an offset range, without those before the replay's position.

        Args:
            wanted: whether a record is replayed at all.
        """
        progress = Progress(f"shard {shard}", self._say)
        start, end = max(offsets.start, replay.position), offsets.end
        progress.begin(start)
        async for batch in self.records(shard, OffsetRange(start, end)):
            self._misplaced[shard] += sum(self._belongs_elsewhere(record) for record in batch)
            await replay.take([record for record in batch if wanted(record)])
            progress.at(batch[-1].offset + 1, end)
        await replay.reach(end)

    def records(self, shard: ShardId, offsets: OffsetRange) -> AsyncIterator[Sequence[Record]]:
        """Reads the partition's records, in batches."""
        return self._reader.records(TopicPartition(self.topic, shard), offsets)


@asynccontextmanager
async def open_changelog(settings: Settings, say: Say) -> AsyncIterator[Changelog]:
    """Connects to the cluster and checks its topics, and the group if one is given.

    Raises:
        BrokerError: Kafka cannot be reached.
        ConfigurationError: topics are missing, or are not what is recorded.
    """
    connection = settings.connection()
    layout = await read_layout(
        connection,
        settings.topics().named(),
        group_id=settings.given_group,
        patience_seconds=settings.startup_timeout_seconds,
    )
    async with reading_partitions(connection, tell=lambda gap: say(str(gap))) as reader:
        yield Changelog(settings, layout, reader, say)
