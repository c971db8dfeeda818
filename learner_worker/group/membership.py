"""Static membership's blind spot: with aiokafka, two replicas of one name throw each other out for ever."""

import asyncio

from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from aiokafka.errors import KafkaError

from learner_worker.errors import BrokerError
from learner_worker.group.assignor import claim_of
from learner_worker.group.placement import Claim
from learner_worker.kafka.admin import GroupMember, connected
from learner_worker.kafka.connection import Connection

_PATIENCE_SECONDS = 10.0
_RETRY_SECONDS = 0.5


def was_thrown_out(consumer: AIOKafkaConsumer) -> bool:
    """Whether the group does not know this member any more: it stalled, or another one has taken its name."""
    coordinator = getattr(consumer, "_coordinator", None)  # there is no public way to ask
    return coordinator is not None and not coordinator.member_id


async def find_duplicate(connection: Connection, group_id: str, instance_id: str, process: str) -> str | None:
    """Who has joined the group under this replica's name, in words; None if nobody has.

    The group shows its members' claims only between two rebalances.
    """
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            members = await _stable_members(connection, group_id)
    except (KafkaError, BrokerError, TimeoutError):
        return None  # Kafka is away, or the group finds no rest: joining again will show
    for member in members:
        claim = _claim(member)
        if claim is not None and claim.name == instance_id and claim.process != process:
            return (
                f"another worker ({claim.where}) has joined group {group_id} "
                f"with the same --group-instance-id {instance_id!r}: "
                "this one stops; give every replica a name of its own"
            )
    return None


async def _stable_members(connection: Connection, group_id: str) -> list[GroupMember]:
    async with connected(connection, patience_seconds=_PATIENCE_SECONDS) as cluster:
        while True:
            members = await cluster.stable_members(group_id)
            if members is not None:
                return members
            await asyncio.sleep(_RETRY_SECONDS)


def _claim(member: GroupMember) -> Claim | None:
    try:
        return claim_of(ConsumerProtocolMemberMetadata.decode(member.metadata).user_data)
    except ValueError:
        return None
