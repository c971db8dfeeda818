"""What is looked at before a reshard is announced, and what is deleted when it is over."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
from aiokafka import TopicPartition

from learner_worker.contract.topics import TopicName, in_layout, requests_group
from learner_worker.contract.topology import Topology
from learner_worker.errors import Mismatch
from learner_worker.group.topology import LiveTopics, strangers
from learner_worker.group.topology_view import require_topics
from learner_worker.kafka.admin import Cluster
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.group_deletion import delete_groups
from learner_worker.operations.reshard_kafka import KafkaAccess

_RECORDS_A_SECOND = 20_000  # what is copied and compared on one core, by docs/performance.md


class ReshardPlan(NamedTuple):
    """What a reshard is going to do.

    Attributes:
        announced: whether it is under way already.
    """

    topology: Topology
    shards: int
    announced: bool
    sentence: str


async def plan(access: KafkaAccess, shards: int | None, group_id: str | None) -> ReshardPlan:
    """Looks whether the topics can be resharded.

    Raises:
        BrokerError: Kafka does not answer.
        ConfigurationError: they cannot be.
    """
    topology = await access.topology()
    await access.require_rights(topology.owner_group, topology.layout)
    live, _ = await access.view.look()
    for mismatch in strangers(topology, live, group_id):
        raise mismatch.error()
    if (change := topology.reshard) is not None:
        wanted = change.shards if shards is None else shards
        sentence = f"continuing from {topology.shards} to {change.shards} partitions after {change.step}"
        return ReshardPlan(topology, wanted, announced=True, sentence=sentence)
    if shards is None:
        raise Mismatch("no reshard is under way", "give --partitions").error()
    require_topics(live, live.missing)
    for mismatch in _obstacles(topology, live, shards):
        raise mismatch.error()
    await _require_free(access, topology)
    records = await _records(access, topology)
    return ReshardPlan(
        topology,
        shards,
        announced=False,
        sentence=f"from {topology.shards} to {shards} partitions: the changelog holds at most {records:,} "
        f"records; agents will get no answers for about {10 + 2 * records / _RECORDS_A_SECOND:.0f} s "
        f"(at {_RECORDS_A_SECOND:,} records a second; the copy says how fast it is here), and the time that "
        "workers take to start",
    )


def _obstacles(topology: Topology, live: LiveTopics, shards: int) -> Iterator[Mismatch]:
    if topology.taken_from is not None:
        yield Mismatch(
            f"the take-over from group {topology.taken_from.group_id} is not finished", "start a worker first"
        )
    if topology.owner_group is None:
        yield Mismatch(
            "no worker has ever run on these topics",
            "delete them, and create them anew with `learner-worker topics create --partitions`",
        )
    if topology.replaced is not None:
        yield Mismatch(
            f"the topics of the layout before are still there ({topology.replaced.outcomes} and others)",
            "delete them first with `learner-worker reshard --finish`",
        )
    if shards <= topology.shards:
        yield Mismatch(
            f"{live.names.topology} records {topology.shards} partitions", "the number can only be raised"
        )
    more = {name: count for name, count in live.sharded.items() if count > shards}
    for name in live.names.of_others:
        if name in more:
            yield Mismatch(
                f"{name} has {more[name]} partitions, and Kafka cannot lower that",
                f"reshard to at least {max(more.values())}",
            )


async def _require_free(access: KafkaAccess, topology: Topology) -> None:
    names = access.view.names.of_layout(topology.layout + 1)
    taken = await access.counts(names.of_one_layout)
    if taken:
        raise Mismatch(
            f"{', '.join(taken)} exists already", "delete it: the new layout's topics must be empty"
        ).error()


async def _records(access: KafkaAccess, topology: Topology) -> int:
    name = access.view.names.of_layout(topology.layout).outcomes
    places = [TopicPartition(name, number) for number in range((await access.counts([name]))[name])]
    return sum(end - start for start, end in (await access.ranges(places)).values())


async def delete_replaced(access: KafkaAccess, connection: Connection) -> Sequence[str]:
    """Deletes the topics and groups of the layout before; returns their names.

    Raises:
        BrokerError: Kafka refused.
        ConfigurationError: a reshard is under way.
    """
    topology = await access.topology()
    if topology.reshard is not None:
        raise Mismatch("the reshard is still under way", "start `learner-worker reshard` to continue").error()
    if topology.replaced is None:
        return []
    await access.require_rights(topology.owner_group, topology.layout - 1, only="Delete")
    replaced = msgspec.structs.astuple(topology.replaced)
    names = access.view.names.of_layout(topology.layout - 1)
    existing = await access.counts(names.of_one_layout)
    topics = [name for name in names.of_one_layout if name in replaced and name in existing]
    group = in_layout(topology.owner_group or "", topology.layout - 1)
    await _delete(access.view.cluster, connection, topics, (group, requests_group(group)))
    await access.write(msgspec.structs.replace(topology, generation=topology.generation + 1, replaced=None))
    return [*topics, group, requests_group(group)]


async def _delete(
    cluster: Cluster, connection: Connection, topics: Sequence[TopicName], groups: Sequence[str]
) -> None:
    if topics:
        await cluster.delete_topics(topics)
    await delete_groups(connection, cluster, groups)
