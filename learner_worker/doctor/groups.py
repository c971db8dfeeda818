"""Checks the consumer groups: their members and their lag."""

from collections.abc import Mapping, Sequence

from aiokafka import TopicPartition

from learner_worker.contract.topics import TopicName, requests_group
from learner_worker.doctor.case import Case
from learner_worker.doctor.findings import Finding, error, note, ok, warning
from learner_worker.doctor.kafka import Kafka, code_in_words
from learner_worker.group.commits import own_commits
from learner_worker.kafka.admin import NO_ERROR, REBALANCING, Committed

_MUCH = 10_000  # records: more than a worker that keeps up leaves unread
_RUN = "`learner-worker run`"
Lags = Mapping[str, int]


async def check_group(case: Case) -> Sequence[Finding]:
    """Checks the workers' group: members, lag by topic, and records deleted before they were read."""
    kafka, name = await case.kafka(), case.group_id
    group = await kafka.group(name)
    if group.code != NO_ERROR:
        return [error(f"the group {name} cannot be seen: {code_in_words(group.code)}", "see `rights` above")]
    partitions = await _partitions(kafka, case.names.subscribed)
    committed = own_commits(
        await kafka.committed(name), None if case.topology is None else case.topology.incarnation
    )
    if not committed and not group.members:
        return [note(f"no worker has ever run in the group {name}", f"start one with {_RUN}")]
    lags, lost = await _lags(kafka, committed, partitions)
    return [*_lost(name, lost), *_members(name, group.state, group.members, lags, partitions)]


def _lost(name: str, lost: Sequence[TopicPartition]) -> list[Finding]:
    if not lost:
        return []
    listed = ", ".join(f"{partition.topic}/{partition.partition}" for partition in lost)
    return [
        error(
            f"Kafka has deleted records of {listed} before the group {name} read them",
            "raise retention.ms on these topics, and keep workers running",
        )
    ]


def _members(
    name: str, state: str, members: Sequence[str], lags: Lags, partitions: Sequence[TopicPartition]
) -> list[Finding]:
    unread = ", ".join(f"{topic} {lag}" for topic, lag in lags.items() if lag) or "nothing"
    text = f"group {name}: {state}, {len(members)} members; to be read: {unread}"
    if state in REBALANCING:
        return [note(text, "wait a minute and look again; if it stays, a member comes and goes: see its log")]
    if not members and any(lags.values()):
        return [error(f"no member reads: {text}", f"start workers with {_RUN} and this --group-id")]
    if not members:
        return [note(text, f"no worker runs: start one with {_RUN}")]
    findings = [ok(text)]
    if sum(lags.values()) > _MUCH:
        findings = [warning(text, "look again: if it grows, add replicas, up to one a shard")]
    shards = len({partition.partition for partition in partitions})
    if len(members) > shards:
        findings.append(note(f"{len(members)} members share {shards} shards", "the rest of them idles"))
    return findings


async def check_requests_group(case: Case) -> Sequence[Finding]:
    """Checks the number of unanswered requests."""
    kafka, name = await case.kafka(), requests_group(case.group_id)
    partitions = await _partitions(kafka, (case.names.requests,))
    committed = await kafka.committed(name)
    if not committed:
        return [note("no request was ever answered")]
    lags, _ = await _lags(kafka, committed, partitions)
    unread = sum(lags.values())
    if unread > _MUCH:
        return [warning(f"{unread} requests wait for an answer", "add replicas; the late ones are dropped")]
    return [ok(f"{unread} requests wait for an answer")]


async def _partitions(kafka: Kafka, names: Sequence[TopicName]) -> list[TopicPartition]:
    found = await kafka.existing(names)
    return [TopicPartition(name, one.number) for name, topic in found.items() for one in topic.partitions]


async def _lags(
    kafka: Kafka, committed: Mapping[TopicPartition, Committed], partitions: Sequence[TopicPartition]
) -> tuple[dict[str, int], list[TopicPartition]]:
    """The lag by topic, and the partitions whose next record is deleted."""
    lags: dict[str, int] = {}
    lost = []
    for partition, (start, end) in (await kafka.ranges(partitions)).items():
        position = committed[partition].offset if partition in committed else start
        lags[partition.topic] = lags.get(partition.topic, 0) + max(0, end - max(position, start))
        if position < start:
            lost.append(partition)
    return lags, lost
