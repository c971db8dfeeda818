"""This replica's membership of the group: whether it is confirmed, and whether its instance id is duplicate.

With static membership on aiokafka, two replicas with the same instance id fence each other without end. The
group shows its members' claims, which distinguish a duplicate from an earlier run of this replica.
"""

import asyncio
from enum import Enum
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName
from learner_worker.errors import BrokerError, DuplicateInstanceError, LearnerError
from learner_worker.group.assignor import claim_of
from learner_worker.group.placement import Claim
from learner_worker.kafka.admin import Administrator, Cluster, Committed, GroupMember
from learner_worker.kafka.outage import first_line

_PATIENCE_SECONDS = 10.0
"""Time limit for an answer: beyond a healthy broker's; callers ask again."""
_RETRY_SECONDS = 0.5  # a rebalance takes seconds: asking more often would not help
_NOTHING_READ = Committed(0, "rewind=0")  # the position of a partition before its first record
_log = structlog.get_logger("learner_worker.stream")


class MemberStatus(Enum):
    """The status of this replica in its group."""

    JOINING = "it has no assignment yet"
    MEMBER = "it has the assignment of the latest generation that it knows"
    REJOINING = "it is between two generations: a commit would carry the old one"


class Membership:
    """This replica's membership of the group.

    Args:
        instance_id: the id for static membership, or None.
        process: identifies this run of this process.
    """

    def __init__(
        self,
        *,
        consumer: AIOKafkaConsumer,
        administrator: Administrator,
        group_id: str,
        instance_id: str | None,
        process: str,
    ) -> None:
        self._consumer = consumer
        self._administrator = administrator
        self._instance_id = instance_id
        self._process = process
        self.group_id = group_id
        self.status = MemberStatus.JOINING
        self.member_id = ""
        """The id that the group gave this member with its last assignment; empty before the first one."""

    @property
    def is_rejoining(self) -> bool:
        """Whether no commit may be sent: its rejection would make aiokafka drop its member id."""
        return self.status is MemberStatus.REJOINING

    @property
    def was_thrown_out(self) -> bool:
        """Whether the group has removed this member: it stalled, or another replica uses its instance id."""
        coordinator = self._coordinator
        return coordinator is not None and not coordinator.member_id

    @property
    def _coordinator(self) -> Any:
        return getattr(self._consumer, "_coordinator", None)  # there is no public attribute

    def joined(self) -> None:
        """Notes that the group has made an assignment to this member."""
        self.status = MemberStatus.MEMBER
        if self._coordinator is not None:
            self.member_id = self._coordinator.member_id

    def request_rejoin(self) -> None:
        """Has this member join the group anew, with a new claim."""
        if self._coordinator is not None:
            self._coordinator.request_rejoin()

    def rejoin(self) -> None:
        """Notes that this member is about to join the group's next generation."""
        if self.status is MemberStatus.MEMBER:
            self.status = MemberStatus.REJOINING

    async def is_confirmed(self) -> bool:
        """Whether the group still has this member: it accepts a commit of an offset already committed."""
        assignment = self._consumer.assignment()
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                async with self._administrator(patience_seconds=_PATIENCE_SECONDS) as cluster:
                    committed = await cluster.committed(self.group_id)
                known = next((tp for tp in assignment if tp in committed), next(iter(assignment), None))
                if known is None or self.is_rejoining:
                    return False
                found = committed.get(known, _NOTHING_READ)
                await self._consumer.commit({known: OffsetAndMetadata(found.offset, found.metadata)})
        except (KafkaError, LearnerError, TimeoutError) as error:
            _log.info("membership.unsure", error=first_line(error))
            return False
        return True

    async def end_if_replaced(self) -> None:
        """Ends this member if another replica has taken its instance id.

        Before the first assignment nothing is checked: the member with this instance id may be an earlier
        run of this replica.

        Raises:
            DuplicateInstanceError: another replica has it; the message names that replica.
        """
        if self.status is MemberStatus.JOINING or self._instance_id is None:
            return
        duplicate = await self._find_duplicate(self._instance_id)
        if duplicate is not None:
            raise DuplicateInstanceError(
                f"another worker ({duplicate.where}) has joined group {self.group_id} "
                f"with the same --group-instance-id {self._instance_id!r}: "
                "this one stops; give every replica its own instance id"
            )

    async def _find_duplicate(self, instance_id: str) -> Claim | None:
        """The claim of another process with this instance id; None if the group shows none.

        The group shows its members' claims only between two rebalances.
        """
        try:
            async with (
                asyncio.timeout(_PATIENCE_SECONDS),
                self._administrator(patience_seconds=_PATIENCE_SECONDS) as cluster,
            ):
                members = await settled_members(cluster, self.group_id)
        except (KafkaError, BrokerError, TimeoutError):
            return None  # Kafka is unreachable or the group keeps rebalancing: the next check decides
        claims = [claim for member in members if (claim := claim_in(member)) is not None]
        return next(
            (claim for claim in claims if claim.name == instance_id and claim.process != self._process), None
        )


async def settled_members(cluster: Cluster, group_id: str) -> list[GroupMember]:
    """The members of a group; waits while it rebalances, when it does not show their claims."""
    while True:
        members = await cluster.stable_members(group_id)
        if members is not None:
            return members
        await asyncio.sleep(_RETRY_SECONDS)


def claim_in(member: GroupMember) -> Claim | None:
    """The claim that a member joined with; None if it makes none that this version can read."""
    try:
        return claim_of(ConsumerProtocolMemberMetadata.decode(member.metadata).user_data)
    except ValueError:
        return None


def shards_in(member: GroupMember, topic: TopicName) -> list[ShardId]:
    """The shards of a topic that a member is assigned; none if this version cannot read its assignment."""
    try:
        assigned = ConsumerProtocolMemberAssignment.decode(member.assignment).partitions()
    except (ValueError, TypeError):  # TypeError: an array that is null
        return []
    return sorted(ShardId(one.partition) for one in assigned if one.topic == topic)
