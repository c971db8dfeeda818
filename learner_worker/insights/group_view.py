"""The workers' group, as Kafka describes it: who is a member, who owns which shard, what is unread."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aiokafka import TopicPartition
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName, requests_group
from learner_worker.group.assignor import claim_of
from learner_worker.group.lag import PartitionLag
from learner_worker.group.topology_view import Layout
from learner_worker.kafka.admin import Committed, GroupMember, connected
from learner_worker.kafka.clients import range_consumer, running
from learner_worker.kafka.offsets import OffsetRange, offset_ranges
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


class GroupLook:
    """Looks at a group, and remembers the ends of partitions that it has not read."""

    def __init__(self, settings: Settings, layout: Layout, group_id: str) -> None:
        self._settings = settings
        self._shards = layout.shards
        self._names = layout.names
        self._group_id = group_id
        self._lags: dict[TopicPartition, PartitionLag] = {}

    async def look(self) -> GroupView:
        """The group now.

        Raises:
            BrokerError, KafkaError, TimeoutError: Kafka does not answer.
        """
        names, connection = self._names, self._settings.connection()
        topics = (*names.subscribed, names.requests)
        partitions = [TopicPartition(topic, number) for topic in topics for number in range(self._shards)]
        patience = self._settings.startup_timeout_seconds
        async with (
            asyncio.timeout(_KAFKA_SECONDS),
            connected(connection, patience_seconds=patience) as cluster,
            running(range_consumer(connection), patience) as consumer,
        ):
            committed = {
                **await cluster.committed(self._group_id),
                **await cluster.committed(requests_group(self._group_id)),
            }
            ranges = await offset_ranges(consumer, partitions)
            found = await cluster.stable_members(self._group_id)
        unread = {one: self._unread(one, _not_read(one, ranges, committed)) for one in partitions}
        members = None if found is None else sorted(_member(each, names.outcomes) for each in found)
        owners = {shard: one.name for one in members or () for shard in one.shards}
        lag = [
            ShardView(shard, owners.get(shard), [unread[TopicPartition(topic, shard)] for topic in topics])
            for shard in map(ShardId, range(self._shards))
        ]
        return GroupView(members, topics, lag)

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
    claim = claim_of(ConsumerProtocolMemberMetadata.decode(member.metadata).user_data)
    name = claim.name if claim is not None and claim.name else member.member_id
    return MemberView(name, member.client_host.removeprefix("/"), _shards_of(member.assignment, topic))


def _shards_of(assignment: bytes, topic: TopicName) -> list[ShardId]:
    if not assignment:
        return []
    owned = ConsumerProtocolMemberAssignment.decode(assignment).partitions()
    return sorted(ShardId(one.partition) for one in owned if one.topic == topic)
