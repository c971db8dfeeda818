"""The topology in Kafka: reads and compares it, or records it for the first time.

`read_layout` is for those that only look, `establish` for a worker, `create_topics` for an operator.
"""

import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import structlog
from aiokafka import TopicPartition

from learner_worker.contract.topics import TopicName, TopicNames, in_layout
from learner_worker.contract.topology import KEEP_FOLDERS, OwnTopics, Topology
from learner_worker.errors import BrokerError, ConfigurationError, Mismatch, ReshardError
from learner_worker.group.topology import (
    LiveTopics,
    Misplaced,
    common_count,
    count_to_create,
    misplaced,
    require_same,
)
from learner_worker.kafka.admin import Cluster, Committed, connected
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.group_offsets import commit_for_group
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.kafka.partition_reader import PartitionReader, reading_partitions
from learner_worker.kafka.polling import Gap
from learner_worker.kafka.records import Record
from learner_worker.kafka.samples import sample_ends
from learner_worker.kafka.topology_topic import append, read_standing

DEFAULT_SHARDS: Final = 12  # shared evenly by 1, 2, 3, 4, 6 or 12 replicas; fixed from then on
SAMPLED: Final = 200  # records at each end of a changelog partition: of a doubled one half lie wrong
Filed = Callable[[], Mapping[Path, Mapping[str, str]]]
"""Reads the identities of a state folder's shard files."""
_log = structlog.get_logger("learner_worker.group")


class Layout(NamedTuple):
    """The layout of the topics; without a record, the count that a sample of the changelog confirms.

    Attributes:
        names: the topics' names in it.
    """

    cluster_id: str
    shards: int
    topology: Topology | None
    names: TopicNames

    @property
    def incarnation(self) -> str | None:
        """The incarnation of the topics; None without a record."""
        return None if self.topology is None else self.topology.incarnation

    def owner(self, given: str | None, default: str) -> str:
        """The group in question: the given one, the owner, or a default one."""
        return given or (self.topology and self.topology.owner_group) or default

    def events_group(self, given: str | None, default: str) -> str:
        """The group that has its offsets of events, in this layout."""
        return in_layout(self.owner(given, default), 1 if self.topology is None else self.topology.layout)


class Seen(NamedTuple):
    """The topics at one moment, and the record in effect; None if there is none."""

    live: LiveTopics
    topology: Topology | None


class TopologyView:
    """The current topics, their record and the changelog.

    Attributes:
        names: the topics' names in the first layout, as the settings have them.
    """

    def __init__(
        self, connection: Connection, names: TopicNames, cluster: Cluster, reader: PartitionReader
    ) -> None:
        self.names = names
        self.cluster = cluster
        self._connection = connection
        self._reader = reader

    async def look(self) -> Seen:
        """The topics that exist, by their names in the recorded layout, and the record.

        Raises:
            BrokerError: Kafka does not answer.
            UpgradeRequiredError: a newer learner wrote the record.
        """
        cluster_id = await self.cluster.current_id()
        topology = await self.standing()
        names = self.names if topology is None else self.names.of_layout(topology.layout)
        return Seen(LiveTopics(cluster_id, names, await self.cluster.partitions(names.all)), topology)

    async def standing(self) -> Topology | None:
        """The record in effect, whatever topics exist; None if there is none."""
        if self.names.topology not in await self.cluster.partitions([self.names.topology]):
            return None
        return await read_standing(self._reader, self.names.topology)

    async def write(self, topology: Topology) -> Topology:
        """Writes a record, and reads which one is in effect: of several writers' the first.

        Raises:
            BrokerError: Kafka did not take it.
        """
        await append(self._connection, self.names.topology, topology)
        stands = await read_standing(self._reader, self.names.topology)
        if stands is None:
            raise BrokerError(f"{self.names.topology} lost the record just written: look at the broker's log")
        return stands

    async def start_of(self, place: TopicPartition) -> int:
        """The first offset that a partition holds."""
        return (await self._reader.range_of(place)).start

    async def ranges(self, places: Sequence[TopicPartition]) -> Mapping[TopicPartition, OffsetRange]:
        """The offset ranges that partitions hold now.

        Raises:
            BrokerError: Kafka does not answer.
        """
        return await self._reader.ranges_of(places)

    def records(self, place: TopicPartition, offsets: OffsetRange) -> AsyncIterator[Sequence[Record]]:
        """Reads an offset range of a partition; see `PartitionReader.records`."""
        return self._reader.records(place, offsets)

    async def commit(self, group_id: str, offsets: Mapping[TopicPartition, Committed]) -> None:
        """Commits offsets for a group without members; see `commit_for_group`."""
        await commit_for_group(self._connection, group_id, offsets)

    async def misplaced(self, live: LiveTopics, shards: int) -> Misplaced | None:
        """Checks the ends of the changelog's partitions for records that a count places elsewhere."""
        outcomes = self.names.outcomes
        partitions = [TopicPartition(outcomes, number) for number in range(live.counts.get(outcomes, 0))]
        return misplaced(await sample_ends(self._connection, partitions, SAMPLED), shards)


@asynccontextmanager
async def topology_view(
    connection: Connection, names: TopicNames, *, patience_seconds: float
) -> AsyncIterator[TopologyView]:
    """Connects.

    Raises:
        BrokerError: Kafka cannot be reached.
    """
    async with (
        connected(connection, patience_seconds=patience_seconds) as cluster,
        reading_partitions(connection, tell=_tell) as reader,
    ):
        yield TopologyView(connection, names, cluster, reader)


def _tell(gap: Gap) -> None:
    _log.warning("topology.record_ignored", error=str(gap))


# --- for those that only look ----------------------------------------------------------------------------


async def read_layout(
    connection: Connection, names: TopicNames, *, group_id: str | None, patience_seconds: float
) -> Layout:
    """The recorded layout, or the one that the changelog confirms. Writes nothing.

    Args:
        group_id: the group in question; None for the topics' owner.

    Raises:
        BrokerError: Kafka cannot be reached.
        ConfigurationError: topics are missing, or are not what is recorded.
    """
    async with topology_view(connection, names, patience_seconds=patience_seconds) as view:
        live, topology = await view.look()
        require_topics(live, [name for name in live.missing if name != names.topology])
        if topology is not None:
            require_same(topology, live, group_id)
            return Layout(live.cluster_id, topology.shards, topology, live.names)
        shards = common_count(live)
        await _require_placed(view, live, shards)
        return Layout(live.cluster_id, shards, None, live.names)


def require_topics(live: LiveTopics, missing: list[TopicName]) -> None:
    """Refuses to continue without some topics.

    Raises:
        ConfigurationError: one is missing.
    """
    if missing:
        raise ConfigurationError(
            f"missing topics: {', '.join(live.missing)}; create them with `learner-worker topics create`"
        )


async def require_unchanged(
    connection: Connection, names: TopicNames, layout: Layout, *, patience_seconds: float
) -> None:
    """Makes sure that no reshard has begun before Kafka acknowledged what was written by a layout.

    A reshard copies what was acknowledged before it was announced; what comes later may be left behind.

    Raises:
        BrokerError: Kafka cannot be reached.
        ReshardError: one has begun, or is over.
    """
    async with topology_view(connection, names, patience_seconds=patience_seconds) as view:
        live, topology = await view.look()
    if topology is not None and (topology.reshard is not None or live.names != layout.names):
        raise ReshardError(
            "the topics are being resharded, or were just now, and what was written may be left behind: "
            "repeat the command when `learner-worker reshard` is done"
        )


async def _require_placed(view: TopologyView, live: LiveTopics, shards: int) -> None:
    found = await view.misplaced(live, shards)
    if found is not None:
        raise found.mismatch(view.names.outcomes, shards).error()


# --- for an operator -------------------------------------------------------------------------------------


async def create_topics(
    view: TopologyView, *, partitions: int | None, replication_factor: int | None, group_id: str | None
) -> list[TopicName]:
    """Creates missing topics, and the record if there is none; returns the topics created.

    Args:
        partitions: the requested number of shards; None for the recorded one or the default.
        group_id: the group that will own the topics; None for the first one that runs.

    Raises:
        BrokerError: Kafka refused something.
        ConfigurationError: a record, a topic or the changelog has another number; nothing was created.
    """
    live, topology = await view.look()
    shards = count_to_create(partitions, topology, live, DEFAULT_SHARDS)
    if topology is None:
        await _require_placed(view, live, shards)
    created = await view.cluster.create_topics(
        live.names, partitions=shards, replication_factor=replication_factor
    )
    live, topology = await view.look()
    if topology is None:
        topology = await view.write(_first(live, shards, group_id))
    require_same(topology, live, group_id)
    return created


async def require_recorded(view: TopologyView, group_id: str | None) -> Topology:
    """The record, if it exists and the topics match it.

    Raises:
        ConfigurationError: they are not.
    """
    live, topology = await view.look()
    require_topics(live, live.missing)
    if topology is None:
        common_count(live)
        raise ConfigurationError(
            f"{view.names.topology} holds no record yet: `learner-worker topics create` writes it"
        )
    require_same(topology, live, group_id)
    return topology


# --- for a worker ----------------------------------------------------------------------------------------


async def establish(view: TopologyView, *, group_id: str, filed: Filed) -> Topology:
    """The topology for a worker of a group; recorded if it is not yet, claimed if it has no owner.

    Workers that start at the same time may all write; they read back, and the first record stands for all.

    Raises:
        BrokerError: Kafka refused something.
        ConfigurationError: topics are missing, are not what is recorded, or cannot be trusted.
    """
    live, topology = await view.look()
    require_topics(live, [name for name in live.missing if name != view.names.topology])
    if topology is None:
        topology = await _adopt(view, live, group_id, filed())
        _log.info("topology.adopted", **msgspec.to_builtins(topology))
    require_same(topology, live, group_id)
    if topology.owner_group is None:
        claim = msgspec.structs.replace(topology, generation=topology.generation + 1, owner_group=group_id)
        topology = await view.write(claim)
        _log.info("topology.claimed", **msgspec.to_builtins(topology))
        require_same(topology, live, group_id)
    return topology


async def _adopt(
    view: TopologyView, live: LiveTopics, group_id: str, filed: Mapping[Path, Mapping[str, str]]
) -> Topology:
    """Records the current count, unless the changelog or this worker's own files contradict it."""
    shards = common_count(live)
    of_this_cluster = {path: one for path, one in filed.items() if one.get("cluster_id") == live.cluster_id}
    for path, identity in of_this_cluster.items():
        if identity.get("partitions") != str(shards):
            raise Mismatch(
                f"{path} was written for {identity.get('partitions')} partitions, the topics have {shards}",
                KEEP_FOLDERS,
            ).error()
    await _require_placed(view, live, shards)
    await _create_topology_topic(view, shards)
    return await view.write(_remembered(_first(live, shards, group_id), list(of_this_cluster.values())))


async def _create_topology_topic(view: TopologyView, shards: int) -> None:
    topic = view.names.topology
    try:
        await view.cluster.create_topics(view.names, partitions=shards, replication_factor=None, only=[topic])
    except BrokerError as error:
        raise ConfigurationError(
            f"{topic} is missing and this user cannot create it ({error}): run `learner-worker topics "
            "create` as somebody who may, and allow this user to read and write it"
        ) from error


def _first(live: LiveTopics, shards: int, group_id: str | None) -> Topology:
    return Topology(
        generation=1,
        shards=shards,
        cluster_id=live.cluster_id,
        incarnation=uuid.uuid4().hex,
        owner_group=group_id,
        topics=OwnTopics.of(live.names),
    )


def _remembered(topology: Topology, filed: list[Mapping[str, str]]) -> Topology:
    """Takes the incarnation that this worker's files agree on, because only the record was lost."""
    known = {one["incarnation"] for one in filed if "incarnation" in one}
    if len(known) != 1:
        return topology
    generation = max(int(one.get("generation", 1)) for one in filed)
    return msgspec.structs.replace(topology, incarnation=known.pop(), generation=generation)
