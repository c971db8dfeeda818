"""The cluster as the checks see it: topics, their settings, newest records, and this user's permissions."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import GroupCoordinatorNotAvailableError, TopicAuthorizationFailedError, for_code

from learner_worker.contract.topics import TopicName
from learner_worker.contract.topology import Topology
from learner_worker.errors import BrokerError
from learner_worker.kafka.admin import NO_ERROR, Cluster, Committed
from learner_worker.kafka.clients import range_consumer, running
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.offsets import OffsetRange, offset_ranges
from learner_worker.kafka.partition_reader import read_ranges, reading_partitions
from learner_worker.kafka.polling import Gap, Gaps
from learner_worker.kafka.records import Record
from learner_worker.kafka.rights import TOPIC_FORBIDDEN, operations_in
from learner_worker.kafka.samples import sample_ends
from learner_worker.kafka.topology_topic import read_standing
from learner_worker.lifecycle import start_within
from learner_worker.refusals.diagnosis import connect
from learner_worker.refusals.wire import describe_group, describe_topics

UNKNOWN_TOPIC = 3  # Kafka's error code
_REQUEST_MS = 8_000  # a check has 20 s and may send two requests
_SAMPLE = 200  # newest records of a partition: enough to see a publisher's habit
_SAMPLE_SECONDS = 3.5  # a check may read four topics in its 20 s
_POLL_MS = 200  # between two requests for the coordinator
_COORDINATOR_SECONDS = 5.0  # a cluster that has just started takes a few
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition's leader (-1 for none) and replicas."""

    number: int
    leader: int
    replicas: Sequence[int]
    in_sync: Sequence[int]


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as this user sees it; `operations` is None if this Kafka does not report permissions."""

    code: int
    partitions: Sequence[Partition]
    operations: frozenset[int] | None


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group as this user sees it."""

    code: int
    state: str
    members: Sequence[str]
    operations: frozenset[int] | None


@dataclass(frozen=True, slots=True)
class Sample:
    """The newest records of a topic, and the gaps among them that cannot be read."""

    records: Sequence[Record]
    gaps: Sequence[Gap]


_OFFSETS = TopicName("__consumer_offsets")
_NO_GROUP = Group(NO_ERROR, "Dead", (), None)


class Kafka:
    """A running cluster; every answer is requested once and cached.

    Attributes:
        hidden: the topics that were asked for, and that this user may not see.
    """

    def __init__(self, admin: Any, conn: Any, consumer: AIOKafkaConsumer, connection: Connection) -> None:
        self._admin, self._conn, self._consumer = admin, conn, consumer
        self._connection = connection
        self.hidden: set[TopicName] = set()
        self._known: dict[object, asyncio.Task[Any]] = {}
        self._reading = asyncio.Lock()

    async def identity(self) -> tuple[str, int]:
        """The cluster's id and the number of its brokers."""
        described = await self._once("cluster", self._admin.describe_cluster)
        return str(described.get("cluster_id") or ""), len(described["brokers"])

    async def topics(self, names: Sequence[TopicName]) -> Mapping[TopicName, Topic]:
        """The topics with these names, including missing ones; creates none."""

        async def ask() -> dict[TopicName, Topic]:
            _, _, _, _, topics, _ = await self._conn.send(describe_topics(names))
            return {
                TopicName(name): Topic(
                    code,
                    [
                        Partition(number, leader, replicas, in_sync)
                        for _, number, leader, _, replicas, in_sync, _ in partitions
                    ],
                    operations_in(operations),
                )
                for code, name, _, partitions, operations in topics
            }

        found: Mapping[TopicName, Topic] = await self._once(("topics", tuple(names)), ask)
        self.hidden |= {name for name, topic in found.items() if topic.code == TOPIC_FORBIDDEN} - {_OFFSETS}
        return found

    async def require_visible(self, name: TopicName) -> None:
        """Refuses to conclude anything about a topic that this user may not see.

        Raises:
            TopicAuthorizationFailedError: the user may not.
        """
        if (await self.topics([name]))[name].code == TOPIC_FORBIDDEN:
            raise TopicAuthorizationFailedError(name)

    async def existing(self, names: Sequence[TopicName]) -> Mapping[TopicName, Topic]:
        """The topics among these that exist and are visible."""
        found = await self.topics(names)
        return {name: topic for name, topic in found.items() if topic.code == NO_ERROR}

    async def creatable(self, names: Collection[TopicName]) -> set[TopicName]:
        """The topics that this user may create; none is created."""
        return await Cluster(self._admin, self._connection, *await self.identity()).creatable(names)

    async def configurations(self, names: Sequence[TopicName]) -> Mapping[TopicName, Mapping[str, str]]:
        """The settings of existing topics, without those that this user may not see."""

        async def ask() -> dict[TopicName, Mapping[str, str]]:
            resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
            answers = await self._admin.describe_configs(resources) if resources else []
            return {
                TopicName(name): {entry[0]: entry[1] or "" for entry in entries}
                for answer in answers
                for code, _, _, name, entries in answer.resources
                if code == NO_ERROR
            }

        return await self._once(("configurations", tuple(names)), ask)

    async def group(self, name: str) -> Group:
        """A group, as its coordinator describes it."""

        async def ask() -> Group:
            if not await self._has_groups():
                return _NO_GROUP
            with closing(await self._coordinator(name)) as conn:
                _, groups = await conn.send(describe_group(name))
            ((code, _, state, _, _, members, operations),) = groups
            return Group(code, state, [member[2] for member in members], operations_in(operations))

        return await self._once(("group", name), ask)

    async def _has_groups(self) -> bool:
        """Whether any group ever existed: Kafka creates their topic when a group is first asked for.

        If this user may not see that topic, it is assumed to exist: only a request shows the permissions.
        """

        async def ask() -> bool:
            topic = (await self.topics([_OFFSETS]))[_OFFSETS]
            return topic.code != UNKNOWN_TOPIC or bool(await self._admin.list_consumer_groups())

        return await self._once("groups", ask)

    async def _coordinator(self, group: str) -> Any:
        node = await self._find_coordinator(group)
        brokers = (await self._once("cluster", self._admin.describe_cluster))["brokers"]
        for broker in brokers:
            if broker["node_id"] == node:
                return await _connect(self._connection, broker["host"], broker["port"])
        raise BrokerError(f"the group's coordinator, broker {node}, is not in the cluster")

    async def _find_coordinator(self, group: str) -> int:
        """The group's coordinator; a cluster that has just started takes a moment to elect it."""
        deadline = time.monotonic() + _COORDINATOR_SECONDS
        while True:
            try:
                return int(await self._admin.find_coordinator(group))
            except GroupCoordinatorNotAvailableError:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(_POLL_MS / 1000)

    async def committed(self, group: str) -> Mapping[TopicPartition, Committed]:
        """The group's commits, by partition."""
        if not await self._has_groups():
            return {}
        offsets = await self._admin.list_consumer_group_offsets(
            group, group_coordinator_id=await self._find_coordinator(group)
        )
        return {
            partition: Committed(found.offset, found.metadata or "")
            for partition, found in offsets.items()
            if found.offset >= 0
        }

    async def ranges(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, OffsetRange]:
        """The offset range that each partition holds now."""
        return await offset_ranges(self._consumer, partitions) if partitions else {}

    async def topology(self, name: TopicName) -> Topology | None:
        """The standing record of an existing topic."""

        async def read() -> Topology | None:
            async with reading_partitions(self._connection, tell=_pass_over) as reader:
                return await read_standing(reader, name)

        return await self._once(("topology", name), read)

    async def changelog_ends(self, name: TopicName, count: int) -> Sequence[Record]:
        """The oldest and the newest records of each partition of an existing topic that has a leader."""
        topic = (await self.topics([name]))[name]
        partitions = [TopicPartition(name, found.number) for found in topic.partitions if found.leader >= 0]
        return await sample_ends(self._connection, partitions, count)

    async def newest(self, name: TopicName) -> Sample:
        """The newest records of each partition of an existing topic, a few hundred."""

        async def read() -> Sample:
            topic = (await self.topics([name]))[name]
            async with self._reading:
                return await self._read([TopicPartition(name, found.number) for found in topic.partitions])

        return await self._once(("newest", name), read)

    async def _read(self, partitions: Sequence[TopicPartition]) -> Sample:
        newest = {
            partition: OffsetRange(max(start, end - _SAMPLE), end)
            for partition, (start, end) in (await self.ranges(partitions)).items()
        }
        records: list[Record] = []
        gaps: list[Gap] = []
        met = Gaps(gaps.append)
        async for batch in read_ranges(self._consumer, newest, met, within_seconds=_SAMPLE_SECONDS):
            records += batch
        return Sample(records, gaps)

    async def _once(self, key: object, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Returns a cached answer; a request continues even if the check that made it runs out of time."""
        if key not in self._known:
            self._known[key] = asyncio.create_task(ask(), name=f"ask-{key}")
        answer: T = await asyncio.shield(self._known[key])
        return answer

    async def close(self) -> None:
        """Cancels the requests in progress."""
        for task in self._known.values():
            task.cancel()
        await asyncio.gather(*self._known.values(), return_exceptions=True)


@asynccontextmanager
async def kafka(connection: Connection, host: str, port: int) -> AsyncIterator[Kafka]:
    """Connects to the cluster behind an address that is known to work."""
    async with AsyncExitStack() as stack:
        conn = await _connect(connection, host, port)
        stack.callback(conn.close)
        admin = AIOKafkaAdminClient(**connection.options(), request_timeout_ms=_REQUEST_MS)
        await start_within(admin, _REQUEST_MS / 1000, stop=AIOKafkaAdminClient.close)
        stack.push_async_callback(admin.close)
        consumer = await stack.enter_async_context(running(range_consumer(connection), _REQUEST_MS / 1000))
        found = Kafka(admin, conn, consumer, connection)
        stack.push_async_callback(found.close)
        yield found


async def _connect(connection: Connection, host: str, port: int) -> Any:
    return await connect(connection.options(), host, port, request_timeout_ms=_REQUEST_MS)


def code_in_words(code: int) -> str:
    """Kafka's name of an error code."""
    return str(for_code(code).__name__)


def _pass_over(_: Gap) -> None:
    """Does nothing: `check_headers` reports unreadable records."""
