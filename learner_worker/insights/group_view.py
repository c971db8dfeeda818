"""The workers' group, as Kafka describes it: who is a member, who owns which shard, what is unread."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName, requests_group
from learner_worker.group.commits import own_commits
from learner_worker.group.lag import PartitionLag
from learner_worker.group.membership import claim_in, shards_in
from learner_worker.group.topology_view import Layout
from learner_worker.kafka.admin import Cluster, Committed, GroupMember, connected
from learner_worker.kafka.clients import range_consumer, running
from learner_worker.kafka.offsets import OffsetRange, offset_ranges
from learner_worker.lifecycle import KAFKA_FAILURES
from learner_worker.settings import Settings

_KAFKA_SECONDS = 15.0  # aiokafka itself retries a request without a limit


class MemberView(NamedTuple):
    """A member of the workers' group."""

    name: str
    host: str
    shards: Sequence[ShardId]


class Unread(NamedTuple):
    """What a shard has to read of a topic.

    Attributes:
        seconds: for how long the oldest of these records is known; None for topics of which workers do not
            say it either, because they hold nothing that anybody waits for.
    """

    records: int
    seconds: float | None


class ShardView(NamedTuple):
    """A shard: its owner's name, and what is to be read, in the order of the topics."""

    number: ShardId
    owner: str | None
    unread: Sequence[Unread]


class GroupView(NamedTuple):
    """The workers' group.

    Attributes:
        members: None while it rebalances.
    """

    members: Sequence[MemberView] | None
    topics: Sequence[TopicName]
    lag: Sequence[ShardView]


class _Clients(NamedTuple):
    cluster: Cluster
    consumer: AIOKafkaConsumer
    stack: AsyncExitStack


class _Found(NamedTuple):
    committed: Mapping[TopicPartition, Committed]
    ranges: Mapping[TopicPartition, OffsetRange]
    members: Sequence[GroupMember] | None


class GroupLook:
    """Looks at a group, and remembers the ends of partitions that it has not read.

    The clients are kept from one look to the next: new ones would log in each time.
    """

    def __init__(self, settings: Settings, layout: Layout, group_id: str) -> None:
        self._settings = settings
        self._shards = layout.shards
        self._names = layout.names
        self._incarnation = layout.incarnation
        self._group_id = group_id
        self._lags: dict[TopicPartition, PartitionLag] = {}
        self._clients: _Clients | None = None

    async def look(self) -> GroupView:
        """The group now.

        Raises:
            BrokerError, KafkaError, TimeoutError: Kafka does not answer.
        """
        names = self._names
        topics = (*names.subscribed, names.requests)
        partitions = [TopicPartition(topic, number) for topic in topics for number in range(self._shards)]
        async with asyncio.timeout(_KAFKA_SECONDS):
            committed, ranges, found = await self._found(partitions)
        unread = {one: self._unread(one, _not_read(one, ranges, committed)) for one in partitions}
        members = None if found is None else sorted(_member(each, names.outcomes) for each in found)
        owners = {shard: one.name for one in members or () for shard in one.shards}
        lag = [
            ShardView(shard, owners.get(shard), [unread[TopicPartition(topic, shard)] for topic in topics])
            for shard in map(ShardId, range(self._shards))
        ]
        return GroupView(members, topics, lag)

    async def close(self) -> None:
        """Closes the clients; the next look opens others."""
        clients, self._clients = self._clients, None
        if clients is not None:
            await clients.stack.aclose()

    async def _found(self, partitions: Sequence[TopicPartition]) -> _Found:
        """Asks Kafka, and asks once more, with new clients, if those of an earlier look fail."""
        if self._clients is not None:
            with suppress(*KAFKA_FAILURES):
                return await self._asked(self._clients, partitions)
        self._clients = await self._connected()
        return await self._asked(self._clients, partitions)

    async def _connected(self) -> _Clients:
        connection, patience = self._settings.connection(), self._settings.startup_timeout_seconds
        async with AsyncExitStack() as stack:
            cluster = await stack.enter_async_context(connected(connection, patience_seconds=patience))
            consumer = await stack.enter_async_context(running(range_consumer(connection), patience))
            return _Clients(cluster, consumer, stack.pop_all())

    async def _asked(self, clients: _Clients, partitions: Sequence[TopicPartition]) -> _Found:
        """Asks Kafka; clients that fail, or are interrupted, are closed."""
        cluster = clients.cluster
        try:
            committed = {
                **own_commits(await cluster.committed(self._group_id), self._incarnation),
                **await cluster.committed(requests_group(self._group_id)),
            }
            ranges = await offset_ranges(clients.consumer, partitions)
            return _Found(committed, ranges, await cluster.stable_members(self._group_id))
        except BaseException:
            await self.close()
            raise

    def _unread(self, partition: TopicPartition, offsets: OffsetRange) -> Unread:
        records = offsets.end - offsets.start
        if partition.topic in {self._names.outcomes, self._names.metrics}:
            return Unread(records, None)
        lag = self._lags.setdefault(partition, PartitionLag())
        return Unread(records, lag.seconds(offsets, asyncio.get_running_loop().time()))


def _not_read(
    partition: TopicPartition,
    ranges: Mapping[TopicPartition, OffsetRange],
    committed: Mapping[TopicPartition, Committed],
) -> OffsetRange:
    start, end = ranges[partition]
    position = max(start, committed[partition].offset if partition in committed else start)
    return OffsetRange(position, max(end, position))


def _member(member: GroupMember, topic: TopicName) -> MemberView:
    claim = claim_in(member)
    name = claim.name if claim is not None and claim.name else member.member_id
    return MemberView(name, member.client_host.removeprefix("/"), shards_in(member, topic))
