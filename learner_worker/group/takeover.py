"""Take-over: another group becomes the owner of the topics, for good.

    1. recorded   a record of a higher generation names the new owner, and the one before in `taken_from`;
                  the old group's workers see it within seconds, finish their work and leave their group
    2. emptied    the new owner waits until the old group has no members
    3. inherited  the old group's commits become the new group's: offsets, rewind offsets, answered requests;
                  those of events name the incarnation, as the workers' do (`commits.py`)
    4. completed  a record of the next generation has no `taken_from` any more

A worker of the new group that is killed in between is followed by one that goes on at step 2: both groups are
without members until a worker has seen step 4, so copying again copies the same.

A group that lost the topics cannot take them back: two groups that are always started with `--take-over`
would take them from each other for ever. So of any number of groups one is left, and the others are refused.

On another cluster (a mirror) offsets mean nothing: the group begins at the start of every topic. Facts that
are learned again change nothing.
"""

import asyncio
import uuid
from collections.abc import Mapping
from typing import Final

import msgspec
import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from learner_worker.contract.topics import in_layout, requests_group
from learner_worker.contract.topology import Origin, Topology
from learner_worker.errors import BrokerError, ConfigurationError, Mismatch
from learner_worker.group.commits import noted, own_commits, unnamed
from learner_worker.group.topology import LiveTopics, require_same
from learner_worker.group.topology_view import TopologyView
from learner_worker.kafka.admin import Cluster, Committed

EMPTY_SECONDS: Final = 120.0
"""How long the old group may take to empty: ten seconds until its workers notice, their end, and the session
timeout of one that died.
"""
_LOOK_SECONDS = 0.5  # short beside a worker's end
_log = structlog.get_logger("learner_worker.group")


async def record_owner(view: TopologyView, group_id: str) -> None:
    """Step 1: records a group as the owner; does nothing if it is, or if the topics have none yet.

    Raises:
        BrokerError: Kafka did not take the record.
        ConfigurationError: the topics are not as recorded in anything but cluster and owner, or another group
            has taken them over from this one.
    """
    live, topology = await view.look()
    if topology is None:
        return
    moved = topology.cluster_id != live.cluster_id
    if moved and topology.reshard is not None:
        raise _half_resharded(topology)
    if not moved and topology.owner_group in {None, group_id}:
        return
    former = set() if moved else set(topology.former_owners)
    if group_id in former:
        raise _taken_before(topology, group_id)
    owned = msgspec.structs.replace(
        topology,
        generation=topology.generation + 1,
        cluster_id=live.cluster_id,
        incarnation=uuid.uuid4().hex if moved else topology.incarnation,  # files hold the other offsets
        owner_group=group_id,
        former_owners=sorted((former | {topology.owner_group or group_id}) - {group_id}),
        taken_from=topology.taken_from or Origin(topology.owner_group or group_id, topology.cluster_id),
    )
    require_same(owned, live, group_id)
    _log.info("topology.taken_over", **msgspec.to_builtins(await view.write(owned)))


def _taken_before(topology: Topology, group_id: str) -> ConfigurationError:
    """Two groups that always start with the flag would take the topics from each other for ever."""
    return Mismatch(
        f"group {topology.owner_group!r} has taken these topics over from group {group_id!r}, which cannot "
        "take them back",
        f"start no more workers with --group-id {group_id}; if the topics are to change hands once more, "
        "`run --take-over` with a name that has never owned them",
    ).error()


def _half_resharded(topology: Topology) -> ConfigurationError:
    return Mismatch(
        f"cluster {topology.cluster_id!r} was being resharded when this copy of its record was made",
        "let `learner-worker reshard` finish there, and mirror its topics again; if that cluster is gone, "
        "restore these topics from a copy made before the reshard",
    ).error()


async def complete(view: TopologyView, topology: Topology, group_id: str) -> Topology:
    """Steps 2 to 4, for the owner that is recorded; returns the record in effect.

    Raises:
        BrokerError: Kafka did not answer, or refused the commits.
        ConfigurationError: the old group still has members.
    """
    origin = topology.taken_from
    if origin is None:
        return topology
    live, _ = await view.look()
    old, new = in_layout(origin.group_id, topology.layout), in_layout(group_id, topology.layout)
    try:
        await until_empty(view.cluster, old, new)  # 2. emptied
        for group, commits in (await commits_to_inherit(view, topology, live, old, new)).items():
            await view.commit(group, commits)  # 3. inherited
    except (KafkaError, TimeoutError) as error:
        again = (await view.look()).topology
        if again is not None and again.taken_from is None:  # another worker has completed it, and runs
            return again
        raise BrokerError(
            f"the commits of group {origin.group_id} could not be copied to {group_id} ({error!r}): allow "
            "this user to describe and read both, and stop whatever else uses the new one"
        ) from error
    completed = await view.write(  # 4. completed
        msgspec.structs.replace(topology, generation=topology.generation + 1, taken_from=None)
    )
    _log.info("topology.inherited", origin=origin.group_id)
    return completed


async def until_empty(cluster: Cluster, old: str, new: str) -> None:
    """Waits until a group has no members; returns at once if it is also the new one.

    Raises:
        ConfigurationError: it still has some.
    """
    if old == new:
        return
    _log.info("topology.waiting", until=f"group {old} has no members")
    deadline = asyncio.get_running_loop().time() + EMPTY_SECONDS
    while await cluster.stable_members(old) != []:
        if asyncio.get_running_loop().time() > deadline:
            raise Mismatch(
                f"group {old!r} still has members after {EMPTY_SECONDS:g} s",
                "stop its workers (0.1.0 does not see that it is superseded), remove dead ones with "
                f"`learner-worker leave --group-id {old} --instance NAME`, then start this again",
            ).error()
        await asyncio.sleep(_LOOK_SECONDS)


async def commits_to_inherit(
    view: TopologyView, topology: Topology, live: LiveTopics, old: str, new: str
) -> Mapping[str, Mapping[TopicPartition, Committed]]:
    """The commits that the new group and its requests' group begin with."""
    names, incarnation, origin = live.names, topology.incarnation, topology.taken_from
    events = await view.cluster.committed(old)
    answered = await view.cluster.committed(requests_group(old))
    if origin is not None and origin.cluster_id != live.cluster_id:
        events, answered = await _beginnings(view, live, events), await _beginnings(view, live, answered)
    return {
        new: {
            place: noted(one, incarnation)
            for place, one in own_commits(events, incarnation).items()
            if place.topic in names.subscribed
        },
        requests_group(new): {place: one for place, one in answered.items() if place.topic == names.requests},
    }


async def _beginnings(
    view: TopologyView, live: LiveTopics, copied: Mapping[TopicPartition, Committed]
) -> dict[TopicPartition, Committed]:
    """The start of every partition: commits that a mirror has copied may hold the other cluster's offsets.

    What the changelog's commits say of expired outcomes holds on every cluster.
    """
    found: dict[TopicPartition, Committed] = {}
    for topic, count in live.sharded.items():
        for place in (TopicPartition(topic, number) for number in range(count)):
            start = await view.start_of(place)
            note = unnamed(copied[place]) if topic == live.names.outcomes and place in copied else None
            found[place] = Committed(start, f"rewind={start}" if note is None else note)
    return found
