"""Leaves the group for good, so that it reassigns a member's shards at once.

aiokafka never sends LeaveGroup for a static member: one that restarts within its session timeout keeps its
shards. But one that does not come back keeps them as well, and nobody answers for them meanwhile.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import structlog
from aiokafka.errors import KafkaError

from learner_worker.errors import BrokerError, ConfigurationError
from learner_worker.group.membership import claim_in, settled_members
from learner_worker.group.placement import Claim
from learner_worker.kafka.admin import Administrator, Cluster, GroupMember
from learner_worker.kafka.outage import first_line
from learner_worker.refusals.denials import failure
from learner_worker.refusals.wire import OldKafkaError

_LEAVE_SECONDS = 5.0  # part of the time that a replica has for its end; several times a healthy answer
_REMOVE_SECONDS = 90.0  # longer than a rebalance may last
_log = structlog.get_logger("learner_worker.stream")


class _Named(NamedTuple):
    claim: Claim
    member: GroupMember


def process_instance(instance: str, number: int) -> str:
    """The instance id of one of several processes of a replica."""
    return f"{instance}-{number}"


def _is_process_of(instance: str, found: _Named) -> bool:
    replica, _, number = found.claim.name.rpartition("-")
    return replica == instance and number.isdecimal() and bool(found.claim.siblings)


async def leave_group(administrator: Administrator, group_id: str, member_id: str) -> bool:
    """Leaves the group, as the last act of a member whose work is durable and whose clients are stopped.

    Returns:
        False if Kafka did not take it: the shards wait until the session times out.
    """
    try:
        async with asyncio.timeout(_LEAVE_SECONDS), administrator(patience_seconds=_LEAVE_SECONDS) as cluster:
            await cluster.remove_member(group_id, member_id)
    except (BrokerError, KafkaError, TimeoutError) as error:
        _log.warning("group.leave_failed", group=group_id, error=first_line(error))
        return False
    _log.info("group.left", group=group_id)
    return True


async def remove_instance(cluster: Cluster, group_id: str, name: str) -> dict[str, str]:
    """Removes the member of that name from its group, or all processes of the replica of that name.

    Returns:
        The host of each, by its name.

    Raises:
        BrokerError: Kafka did not take it.
        ConfigurationError: the group has no such member.
    """
    try:
        async with asyncio.timeout(_REMOVE_SECONDS):
            members = await _members_by_name(cluster, group_id)
            meant = _meant(name, members)
            if not meant:  # while a group rebalances, it does not show which members have the same parent
                members = _by_name(await settled_members(cluster, group_id))
                meant = _meant(name, members)
            if not meant:
                listed = ", ".join(sorted(members)) or "none at all"
                raise ConfigurationError(
                    f"the group {group_id} has no member {name!r}, it has {listed}: check --instance, which "
                    "is a worker's --group-instance-id, and --group-id"
                )
            for each in meant:
                await cluster.remove_member(group_id, members[each].member.member_id)
    except TimeoutError as error:
        raise BrokerError(f"the group {group_id} keeps rebalancing: try again in a minute") from error
    except KafkaError as error:
        raise failure(
            f"Kafka did not remove {name!r} from the group {group_id}", error, "try again"
        ) from error
    return {each: members[each].claim.where for each in meant}


def _meant(name: str, members: Mapping[str, _Named]) -> list[str]:
    """The member of that name, or else the processes of one parent that are named after it."""
    if name in members:
        return [name]
    return sorted(each for each, found in members.items() if _is_process_of(name, found))


async def remove_instances(cluster: Cluster, group_id: str, names: Collection[str]) -> list[str]:
    """Removes those of these members that the group has, and returns their names.

    All in one go: a group that has lost one of them waits for the others, which do not come.

    Raises:
        KafkaError, TimeoutError: Kafka did not take it.
    """
    async with asyncio.timeout(_LEAVE_SECONDS):
        members = await _members_by_name(cluster, group_id)
        found = [name for name in names if name in members]
        for name in found:
            await cluster.remove_member(group_id, members[name].member.member_id)
    return found


async def _members_by_name(cluster: Cluster, group_id: str) -> dict[str, _Named]:
    """Members by their names; without claims while the group rebalances, even if it waits for a dead member.

    Kafka before 2.4 does not show instance ids. Claims name them, but only between two rebalances.
    """
    try:
        return _by_name(await cluster.static_members(group_id))
    except OldKafkaError:
        return _by_name(await settled_members(cluster, group_id))


def _by_name(members: Iterable[GroupMember]) -> dict[str, _Named]:
    named = [
        _Named(claim_in(member) or Claim("", member.instance_id or "", member.client_host), member)
        for member in members
    ]
    return {name: each for each in named if (name := each.member.instance_id or each.claim.name)}
