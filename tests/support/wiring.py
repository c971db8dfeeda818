"""A worker wired as the program wires it, on Kafka clients that a test plays, and on real files."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName, Topics
from learner_worker.domain.retention import Policy
from learner_worker.kafka.admin import Committed, GroupMember
from learner_worker.kafka.outage import Outage
from learner_worker.observability import Instruments
from learner_worker.requests.clock import Clock
from learner_worker.settings import Settings
from learner_worker.store.shard_file import ShardFile
from learner_worker.store.state_folder import StateFolder
from learner_worker.worker.platform import Intervals, Platform, SnapshotPlatform
from learner_worker.worker.worker import Worker
from tests.support.steady import SteadyTopics
from tests.support.workers import until

TOPICS = Topics().named()


def partitions_of(*shards: int) -> list[TopicPartition]:
    """What the group assigns with these shards."""
    return [TopicPartition(topic, shard) for shard in shards for topic in TOPICS.subscribed]


class QuietConsumer:
    """An AIOKafkaConsumer whose topics are empty; the test plays the group."""

    def __init__(self) -> None:
        self.assigned: set[TopicPartition] = set()

    async def start(self) -> None:
        """It is connected."""

    async def stop(self) -> None:
        """It was connected."""

    def subscribe(self, **_: Any) -> None:
        """The test calls the listener."""

    def assignment(self) -> set[TopicPartition]:
        return self.assigned

    def pause(self, *_: TopicPartition) -> None:
        """Nothing comes."""

    def resume(self, *_: TopicPartition) -> None:
        """Nothing comes."""

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Nothing comes."""

    async def getmany(self, **_: Any) -> Mapping[TopicPartition, Any]:
        await asyncio.sleep(0.01)
        return {}

    async def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 0)

    end_offsets = beginning_offsets

    async def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """Kafka takes it."""

    async def topics(self) -> set[str]:
        return set(TOPICS.all)


class QuietCluster:
    """What the administrator sees: a group that has committed nothing."""

    brokers = 1

    def __init__(self) -> None:
        self.members: list[GroupMember] = []
        self.asked_for_members = 0

    async def committed(self, group_id: str) -> dict[TopicPartition, Committed]:
        assert group_id
        return {}

    async def stable_members(self, group_id: str) -> list[GroupMember]:
        assert group_id
        self.asked_for_members += 1
        return self.members


class PlayedClients:
    """A worker's clients, as the test gives them."""

    def __init__(self, consumer: Any, producer: Any = None) -> None:
        self.consumer = consumer
        self.producer = producer
        self.cluster = QuietCluster()
        self.administrator: Any = self._connected

    def event_consumer(self, *_: Any) -> Any:
        return self.consumer

    def request_consumer(self) -> Any:
        return QuietConsumer()

    def standby_consumer(self) -> Any:
        return QuietConsumer()

    def bulk_producer(self) -> Any:
        return self.producer

    def reply_producer(self) -> Any:
        return SimpleNamespace(start=_nothing, stop=_nothing)

    def _connected(self, *, patience_seconds: float) -> AbstractAsyncContextManager[Any]:
        assert patience_seconds > 0
        return nullcontext(self.cluster)


class RememberedFiles:
    """A state folder that remembers which files it has opened."""

    def __init__(self, path: Path) -> None:
        self._folder = StateFolder(path, cluster_id="c", topic_prefix="", partitions=2)
        self.opened: list[ShardFile] = []

    async def open(self, shard_id: ShardId) -> ShardFile:
        file = await self._folder.open(shard_id)
        self.opened.append(file)
        return file

    async def positions(self, topic: TopicName) -> Mapping[ShardId, int]:
        return await self._folder.positions(topic)


def worker_on(
    clients: PlayedClients,
    files: RememberedFiles,
    snapshots: SnapshotPlatform | None = None,
    **settings: Any,
) -> Worker:
    """A worker of two shards; its loops do not run unless the test runs them."""
    clock = Clock()
    platform = Platform(
        clients=clients,
        files=files,
        guard=SteadyTopics(),
        partitions=2,
        process="this process",
        intervals=Intervals(frontier_seconds=1.0),
        retention=Policy(None, 1, 0, clock.now),
        clock=clock,
        snapshots=snapshots,
    )
    return Worker(
        Settings(group_id="g", topic_prefix="", **settings),
        platform,
        instruments=Instruments(),
        outage=Outage(),
    )


async def until_open(worker: Worker, shards: Collection[int]) -> None:
    """Waits until the worker has opened what it was assigned."""

    async def opened() -> bool:
        return worker.ownership.shards.keys() >= set(shards) and worker.preparation.idle

    await until(opened, f"the shards {sorted(shards)} are open", seconds=5)


async def _nothing() -> None:
    """A client that is not used."""
