"""A worker's platform: Kafka clients, state files and a clock; a simulation passes its own."""

import asyncio
import functools
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName, requests_group
from learner_worker.contract.topology import Topology
from learner_worker.domain.retention import STEPS, Policy
from learner_worker.group.assignor import StateKeepingAssignor
from learner_worker.group.placement import Claim
from learner_worker.kafka import clients
from learner_worker.kafka.admin import Administrator, connected
from learner_worker.requests.clock import Clock
from learner_worker.requests.settings import POLL_MS
from learner_worker.settings import Settings
from learner_worker.snapshots.object_store import ObjectStore, open_store
from learner_worker.store.copying import FileCopy
from learner_worker.store.shard_file import ShardFile
from learner_worker.store.state_folder import StateFolder

_FRONTIER_SECONDS = 30.0
"""How late a task may be forgotten at worst; each query costs three requests to Kafka."""
_MICROS = 1_000_000  # microseconds in a second


ClaimMaker = Callable[[int], Claim]
PlacementListener = Callable[[int, frozenset[ShardId]], None]
"""Called with the term of a placement and the shards to follow."""


class Clients(Protocol):
    """Makes a worker's Kafka clients; the worker starts and stops them."""

    @property
    def administrator(self) -> Administrator:
        """Opens connections to the cluster."""
        ...

    def event_consumer(self, claim: ClaimMaker, on_placement: PlacementListener) -> AIOKafkaConsumer:
        """Reads the owned shards: a member of the group that makes claims, and hears of placements."""
        ...

    def request_consumer(self) -> AIOKafkaConsumer:
        """Reads requests; partitions are assigned manually."""
        ...

    def standby_consumer(self) -> AIOKafkaConsumer:
        """Follows changelogs, assigned by hand."""
        ...

    def bulk_producer(self) -> AIOKafkaProducer:
        """Writes facts and the like."""
        ...

    def reply_producer(self) -> AIOKafkaProducer:
        """Writes replies."""
        ...


class StateFiles(Protocol):
    """The shards' files of this replica."""

    async def open(self, shard_id: ShardId) -> ShardFile:
        """Opens a shard's file; creates it if there is none.

        Raises:
            StateError: it cannot be opened.
        """
        ...

    async def positions(self, topic: TopicName) -> Mapping[ShardId, int]:
        """The shards that have a file, each with the file's position in a topic."""
        ...


class CopiedFiles(Protocol):
    """This replica's shard files: they are copied for snapshots, and missing ones are made from snapshots."""

    def identity_of(self, shard_id: ShardId) -> dict[str, str]:
        """The identity that a shard's file must have."""
        ...

    async def is_missing(self, shard_id: ShardId) -> bool:
        """Whether a shard has no file."""
        ...

    async def copy(self, shard_id: ShardId, topics: Collection[TopicName]) -> FileCopy:
        """Copies the rows of a shard's file, which may be in use; `discard` removes the copy.

        Args:
            topics: the topics whose positions the copy keeps.

        Raises:
            StateError: the file cannot be read, or there is no space.
        """
        ...

    def arriving(self, shard_id: ShardId) -> Path:
        """The path for a copy that `take` then puts in place."""
        ...

    async def describe(self, path: Path) -> FileCopy:
        """What is in a copy.

        Raises:
            StateError: it cannot be read, or is damaged.
        """
        ...

    async def take(self, shard_id: ShardId, path: Path) -> None:
        """Turns a copy into the file of a shard that has none.

        Raises:
            StateError: the folder cannot be written.
        """
        ...

    async def discard(self, path: Path) -> None:
        """Removes a copy, if it is there.

        Raises:
            StateError: the folder cannot be written.
        """
        ...


@dataclass(frozen=True, slots=True)
class SnapshotPlatform:
    """Where this replica publishes snapshots of its files, and takes snapshots from.

    Attributes:
        former: the incarnations of earlier layouts, whose snapshots are deleted by age alone.
    """

    store: ObjectStore
    files: CopiedFiles
    former: frozenset[str] = frozenset()


class Guard(Protocol):
    """Checks that the topics are still those that the worker was started with."""

    @property
    def incarnation(self) -> str:
        """The incarnation of these topics."""
        ...

    async def look(self) -> None:
        """Checks once.

        Raises:
            BrokerError, KafkaError, TimeoutError: Kafka did not answer.
            ConfigurationError: the topics have changed.
        """
        ...

    async def confirm(self) -> bool:
        """Checks unless the last check is recent; False if Kafka does not answer.

        Raises:
            ConfigurationError: the topics have changed.
        """
        ...

    async def confirm_anew(self) -> bool:
        """Checks, however recent the last check is; False if Kafka does not answer.

        Raises:
            ConfigurationError: the topics have changed.
        """
        ...

    async def watch(self, stopping: asyncio.Event) -> None:
        """Checks every few seconds until told to stop; sets `stopping` if another group is the owner now.

        Raises:
            ConfigurationError: the topics have changed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Intervals:
    """The intervals of a worker's loops that no setting controls.

    Attributes:
        frontier_seconds: between two queries of how far the whole group has read.
        standby_idle_seconds: between two checks for a shard to follow, while there is none.
        request_poll_ms: the longest time a poll waits for requests.
    """

    frontier_seconds: float
    standby_idle_seconds: float = 0.1
    request_poll_ms: int = POLL_MS


@dataclass(frozen=True, slots=True)
class Platform:
    """The parts that a worker is given.

    Attributes:
        clients: makes its Kafka clients.
        files: its shards' files.
        guard: checks that the topics stay as they were at the start.
        partitions: the shard count.
        process: identifies this run of this process.
        intervals: the intervals that no setting controls.
        retention: how long outcomes count.
        clock: measures record times, deadlines and pauses.
        snapshots: the store of snapshots; None if there is none.
    """

    clients: Clients
    files: StateFiles
    guard: Guard
    partitions: int
    process: str
    intervals: Intervals
    retention: Policy
    clock: Clock
    snapshots: SnapshotPlatform | None = None


class KafkaClients:
    """Makes a worker's Kafka clients from its settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection = settings.connection()
        self.administrator: Administrator = functools.partial(connected, self._connection)

    def event_consumer(self, claim: ClaimMaker, on_placement: PlacementListener) -> AIOKafkaConsumer:
        """Reads the owned shards: a member of the group that makes claims, and hears of placements."""
        settings = self._settings
        return clients.event_consumer(
            self._connection,
            group_id=settings.group_id,
            instance_id=settings.group_instance_id,
            session_seconds=settings.session_timeout_seconds,
            assignor=StateKeepingAssignor(claim, on_placement),
        )

    def request_consumer(self) -> AIOKafkaConsumer:
        """Reads requests; partitions are assigned manually, and a group of their own keeps the offsets."""
        return clients.request_consumer(self._connection, group_id=requests_group(self._settings.group_id))

    def standby_consumer(self) -> AIOKafkaConsumer:
        """Follows changelogs, assigned by hand."""
        return clients.standby_consumer(self._connection)

    def bulk_producer(self) -> AIOKafkaProducer:
        """Writes facts and the like."""
        return clients.bulk_producer(self._connection)

    def reply_producer(self) -> AIOKafkaProducer:
        """Writes replies."""
        return clients.reply_producer(self._connection)


def kafka_platform(settings: Settings, topology: Topology, guard: Guard) -> Platform:
    """The platform of a real worker: Kafka, its state folder and the machine's clock."""
    clock = Clock()
    files = StateFolder(
        settings.state_dir,
        cluster_id=topology.cluster_id,
        topic_prefix=settings.topic_prefix,
        partitions=topology.shards,
        incarnation=topology.incarnation,
        generation=topology.generation,
    )
    return Platform(
        clients=KafkaClients(settings),
        files=files,
        guard=guard,
        partitions=topology.shards,
        process=uuid.uuid4().hex,
        intervals=Intervals(min(_FRONTIER_SECONDS, settings.auction_horizon_seconds / 10)),
        retention=_retention(settings, clock),
        clock=clock,
        snapshots=_snapshots(settings, topology, files),
    )


def _snapshots(settings: Settings, topology: Topology, files: StateFolder) -> SnapshotPlatform | None:
    if settings.snapshot_url is None:
        return None
    files.remove_copies()
    former = frozenset(one.incarnation for one in topology.former)
    return SnapshotPlatform(open_store(settings.snapshot_url), files, former)


def _retention(settings: Settings, clock: Clock) -> Policy:
    seconds = settings.outcome_retention_seconds
    retention_micros = None if seconds is None else round(seconds * _MICROS)
    return Policy(
        retention_micros=retention_micros,
        step_micros=max(1, (retention_micros or 0) // STEPS),
        grace_micros=round(settings.auction_horizon_seconds * _MICROS),
        now=clock.now,
    )
