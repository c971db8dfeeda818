"""The workers, as Kafka describes them: who is a member, who owns which shard, how much is unread."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from aiokafka import TopicPartition
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName, requests_group
from learner_worker.doctor import Finding, examine
from learner_worker.doctor.examination import CHECKS
from learner_worker.group.assignor import claim_of
from learner_worker.group.topology_view import Layout
from learner_worker.kafka.admin import Committed, GroupMember, connected
from learner_worker.kafka.clients import range_consumer, running
from learner_worker.kafka.offsets import OffsetRange, offset_ranges
from learner_worker.settings import Settings

_VIEW_SECONDS = 2.0  # however many look, Kafka is asked at most this often
_FINDINGS_SECONDS = 60.0  # an examination reads samples of every topic
_KAFKA_SECONDS = 15.0  # aiokafka itself retries a request without a limit
_OF_A_WORKERS_MACHINE: Final = frozenset({"state folder", "state files", "open files"})
"""Checks of a folder and of limits that insights do not have."""
T = TypeVar("T")


class WorkerView(NamedTuple):
    """A member of the workers' group."""

    name: str
    host: str
    shards: Sequence[ShardId]


class ShardView(NamedTuple):
    """A shard: its owner's name, and the records to be read, in the order of the topics."""

    number: ShardId
    owner: str | None
    unread: Sequence[int]


class GroupView(NamedTuple):
    """The workers' group.

    Attributes:
        members: None while it rebalances.
    """

    members: Sequence[WorkerView] | None
    topics: Sequence[TopicName]
    lag: Sequence[ShardView]


class WorkersWatch:
    """Looks at the workers for whoever asks; an answer serves everyone for a while."""

    def __init__(self, settings: Settings, layout: Layout) -> None:
        self._settings = settings
        self._shards = layout.shards
        self._names = layout.names
        self._owner = layout.owner(settings.given_group, settings.group_id)
        self.group_id = layout.events_group(settings.given_group, settings.group_id)
        self._view = _Kept(self._look, _VIEW_SECONDS)
        self._findings = _Kept(self._examine, _FINDINGS_SECONDS)

    async def view(self) -> GroupView:
        """The group, a few seconds old at most.

        Raises:
            BrokerError, KafkaError, TimeoutError: Kafka does not answer.
        """
        return await self._view.get()

    async def findings(self) -> Sequence[tuple[str, Finding]]:
        """What `doctor` finds, a minute old at most."""
        return await self._findings.get()

    async def _look(self) -> GroupView:
        settings = self._settings
        names, connection = self._names, settings.connection()
        topics = (*names.subscribed, names.requests)
        partitions = [TopicPartition(topic, number) for topic in topics for number in range(self._shards)]
        patience = settings.startup_timeout_seconds
        async with (
            asyncio.timeout(_KAFKA_SECONDS),
            connected(connection, patience_seconds=patience) as cluster,
            running(range_consumer(connection), patience) as consumer,
        ):
            ranges = await offset_ranges(consumer, partitions)
            committed = {
                **await cluster.committed(self.group_id),
                **await cluster.committed(requests_group(self.group_id)),
            }
            found = await cluster.stable_members(self.group_id)
        members = None if found is None else sorted(_member(each, names.outcomes) for each in found)
        owners = {shard: one.name for one in members or () for shard in one.shards}
        lag = [
            ShardView(
                ShardId(number),
                owners.get(ShardId(number)),
                [_unread(TopicPartition(topic, number), ranges, committed) for topic in topics],
            )
            for number in range(self._shards)
        ]
        return GroupView(members, topics, lag)

    async def _examine(self) -> Sequence[tuple[str, Finding]]:
        checks = [check for check in CHECKS if check.name not in _OF_A_WORKERS_MACHINE]
        settings = self._settings.model_copy(update={"group_id": self._owner})
        return (await examine(settings, checks=checks, role="insights")).findings


def _unread(
    partition: TopicPartition,
    ranges: Mapping[TopicPartition, OffsetRange],
    committed: Mapping[TopicPartition, Committed],
) -> int:
    start, end = ranges[partition]
    position = committed[partition].offset if partition in committed else start
    return max(0, end - max(position, start))


def _member(member: GroupMember, topic: TopicName) -> WorkerView:
    claim = claim_of(ConsumerProtocolMemberMetadata.decode(member.metadata).user_data)
    name = claim.name if claim is not None and claim.name else member.member_id
    return WorkerView(name, member.client_host.removeprefix("/"), _shards_of(member.assignment, topic))


def _shards_of(assignment: bytes, topic: TopicName) -> list[ShardId]:
    if not assignment:
        return []
    owned = ConsumerProtocolMemberAssignment.decode(assignment).partitions()
    return sorted(ShardId(one.partition) for one in owned if one.topic == topic)


class _Kept(Generic[T]):
    """What was found last, found anew for the first who asks when it is too old."""

    def __init__(self, find: Callable[[], Awaitable[T]], seconds: float) -> None:
        self._find = find
        self._seconds = seconds
        self._turn = asyncio.Lock()
        self._found: tuple[float, T] | None = None

    async def get(self) -> T:
        async with self._turn:
            now = asyncio.get_running_loop().time()
            if self._found is None or now - self._found[0] > self._seconds:
                self._found = (now, await self._find())
            return self._found[1]
