"""Compares topics with the recorded topology, and decides whether an unrecorded count can be trusted.

An agent's outcomes lie on the partition that the agent's hash names by the count they were written with. By
another count they would be looked for elsewhere, and the agent would be answered as one without history.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from learner_worker.contract.facts import agent_of_key
from learner_worker.contract.fields import AgentId
from learner_worker.contract.topics import TopicName, TopicNames
from learner_worker.contract.topology import KEEP_FOLDERS, OwnTopics, Reshard, Topology
from learner_worker.errors import Mismatch
from learner_worker.kafka.partitioner import hash_of
from learner_worker.kafka.records import Record


@dataclass(frozen=True, slots=True)
class LiveTopics:
    """The topics that Kafka lists now.

    Attributes:
        counts: the partition counts of the existing topics.
    """

    cluster_id: str
    names: TopicNames
    counts: Mapping[TopicName, int]

    @property
    def sharded(self) -> dict[TopicName, int]:
        """The counts of the sharded topics, which must be equal."""
        return {name: self.counts[name] for name in self.names.sharded if name in self.counts}

    @property
    def missing(self) -> list[TopicName]:
        """The topics that do not exist."""
        return [name for name in self.names.all if name not in self.counts]


def mismatches(topology: Topology, live: LiveTopics, group_id: str | None) -> Iterator[Mismatch]:
    """The differences of the topics from the record; none if they match.

    Args:
        group_id: the group that is about to use the topics; None for their owner.
    """
    if topology.reshard is not None and topology.cluster_id == live.cluster_id:
        yield resharding(topology, topology.reshard)
        return
    yield from strangers(topology, live, group_id)
    yield from _other_counts(topology, live)


def strangers(topology: Topology, live: LiveTopics, group_id: str | None) -> Iterator[Mismatch]:
    """The differences in anything but the counts."""
    yield from _other_cluster(topology, live)
    yield from _other_topics(topology, live)
    if group_id is not None and topology.owner_group not in {None, group_id}:
        yield Mismatch(
            f"these topics belong to group {topology.owner_group!r} ({live.names.topology}), "
            f"this group is {group_id!r}; two groups would answer every request twice and both write "
            f"{live.names.outcomes}",
            f"give --group-id {topology.owner_group}, or topics of its own to this group with "
            "--topic-prefix, or, if the other group is to end, `run --take-over`",
        )


def resharding(topology: Topology, reshard: Reshard) -> Mismatch:
    """Why nothing may use the topics now."""
    return Mismatch(
        f"these topics are being resharded from {topology.shards} to {reshard.shards} partitions (the last "
        f"step done: {reshard.step})",
        "wait for `learner-worker reshard`; if it was killed, start it again, and it goes on",
    )


def require_same(topology: Topology, live: LiveTopics, group_id: str | None) -> None:
    """Refuses topics that do not match the record.

    Raises:
        ConfigurationError: the first of the `mismatches`.
    """
    for mismatch in mismatches(topology, live, group_id):
        raise mismatch.error()


def _other_cluster(topology: Topology, live: LiveTopics) -> Iterator[Mismatch]:
    if topology.cluster_id != live.cluster_id:
        yield Mismatch(
            f"{live.names.topology} was written on cluster {topology.cluster_id!r}, this is cluster "
            f"{live.cluster_id!r}",
            "give the address of the first with --bootstrap-servers; if this cluster is a copy that takes "
            "its place for good, `run --take-over` with new state folders",
        )


def _other_topics(topology: Topology, live: LiveTopics) -> Iterator[Mismatch]:
    own = OwnTopics.of(live.names)
    for role in OwnTopics.__struct_fields__:
        recorded, configured = getattr(topology.topics, role), getattr(own, role)
        if recorded != configured:
            yield Mismatch(
                f"{live.names.topology} names {recorded!r} as the topic of {role.replace('_', ' ')}, the "
                f"settings name {configured!r}",
                f"correct --topic-{role.replace('_', '-')}, or give other topics their own --topic-topology",
            )


def _other_counts(topology: Topology, live: LiveTopics) -> Iterator[Mismatch]:
    others = {name: count for name, count in live.sharded.items() if count != topology.shards}
    if others:
        uniform = len(others) == len(live.names.sharded) and len(set(others.values())) == 1
        found = f"all sharded topics have {min(others.values())}" if uniform else _listed(others)
        yield Mismatch(
            f"{live.names.topology} records {topology.shards} partitions, but {found} now; by another count "
            f"{_share_moved(topology.shards, set(others.values()))}",
            KEEP_FOLDERS,
        )


def _listed(counts: Mapping[TopicName, int]) -> str:
    return ", ".join(f"{name} has {count}" for name, count in counts.items())


def _share_moved(recorded: int, counts: Collection[int]) -> str:
    """A description of the share of agents that another count would misplace."""
    shares = [1 - min(recorded, count) / math.lcm(recorded, count) for count in counts]
    return (
        f"about {100 * max(shares):.0f} % of all agents would be looked for on another partition and "
        "answered as if they had no history"
    )


# --- without a record ------------------------------------------------------------------------------------


def common_count(live: LiveTopics) -> int:
    """The count that the sharded topics share; 0 if there are none.

    Raises:
        ConfigurationError: they differ.
    """
    counts = live.sharded
    if len(set(counts.values())) > 1:
        raise Mismatch(
            f"these topics must have the same number of partitions, but {_listed(counts)}",
            "delete the odd ones that hold nothing yet (a broker that creates topics by itself makes them "
            "when somebody asks or publishes too early), then run `learner-worker topics create`; if counts "
            f'were raised, keep {live.names.outcomes}, and follow "Changed partition counts" in '
            "docs/operating.md",
        ).error()
    return next(iter(counts.values()), 0)


@dataclass(frozen=True, slots=True)
class Misplaced:
    """Changelog records that are not on the partition that a count gives.

    Attributes:
        agent_id, partition: an example, and its partition.
        count, of: the number of such records, and of all that were read.
        older: the largest smaller count by which all records are in place; None if there is none.
    """

    agent_id: AgentId
    partition: int
    count: int
    of: int
    older: int | None

    def mismatch(self, outcomes: TopicName, shards: int) -> Mismatch:
        """The conclusion about the count, as a mismatch."""
        grown = "another count" if self.older is None else f"{self.older} partitions"
        return Mismatch(
            f"{outcomes} has {shards} partitions, but {self.count:,} of {self.of:,} records looked at lie "
            f"where {shards} partitions do not have them (agent {self.agent_id!r} on partition "
            f"{self.partition} instead of {hash_of(self.agent_id) % shards}): the topics were grown from "
            f"{grown}, and their agents would be answered as if they had no history",
            KEEP_FOLDERS,
        )


def misplaced(records: Iterable[Record], shards: int) -> Misplaced | None:
    """Finds changelog records that are on other partitions than a count gives; None if all are in place."""
    placed = [
        (agent_id, record.partition)
        for record in records
        if (agent_id := agent_of_key(record.key)) is not None
    ]
    wrong = [(agent_id, at) for agent_id, at in placed if hash_of(agent_id) % shards != at]
    if not wrong:
        return None
    return Misplaced(*wrong[0], len(wrong), len(placed), older_count(placed, shards))


def older_count(placed: Sequence[tuple[str, int]], shards: int) -> int | None:
    """The largest count below `shards` by which all ids are on the right partitions; None without one."""
    hashes = {(hash_of(identifier), at) for identifier, at in placed}
    least = max((at for _, at in hashes), default=0) + 1
    candidates = range(shards - 1, least - 1, -1)
    return next((count for count in candidates if all(one % count == at for one, at in hashes)), None)


def count_to_create(asked: int | None, topology: Topology | None, live: LiveTopics, default: int) -> int:
    """The number of partitions with which missing topics are created.

    Args:
        asked: the requested number; None if none was requested.

    Raises:
        ConfigurationError: the record or existing topics have another number.
    """
    if topology is not None:
        require_same(topology, live, None)
    known = topology.shards if topology is not None else common_count(live)
    if known and asked not in {None, known}:
        source = f"{live.names.topology} records" if topology is not None else "the topics that exist have"
        raise Mismatch(
            f"{source} {known} partitions, not {asked}",
            "leave out --partitions; `learner-worker reshard` raises the number",
        ).error()
    return known or asked or default
