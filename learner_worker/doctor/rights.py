"""Checks this user's permissions as Kafka reports them, without trying operations."""

from collections.abc import Iterator, Mapping, Sequence

from aiokafka.errors import GroupAuthorizationFailedError

from learner_worker.contract.topics import TopicName, TopicNames
from learner_worker.doctor.case import Case
from learner_worker.doctor.findings import Finding, error, note, or_ok
from learner_worker.doctor.kafka import GROUP_FORBIDDEN, READ, TOPIC_FORBIDDEN, WRITE, Kafka, Topic

_WORDS = {READ: "Read", WRITE: "Write"}


async def check_rights(case: Case) -> Sequence[Finding]:
    """Checks the permissions that a worker needs: reading, writing and joining the groups."""
    kafka = await case.kafka()
    topics = await kafka.topics(case.names.all)
    user = f"user {case.settings.sasl_username}" if case.settings.sasl_username else "this client"
    groups = (case.settings.group_id, f"{case.settings.group_id}.requests")
    refusals = [
        *(
            refusal
            for name, topic in topics.items()
            for refusal in _on_topic(name, topic, _needed(case.names))
        ),
        *[refusal for group in groups for refusal in await _on_group(kafka, group)],
    ]
    findings = [
        error(
            f"{user} may not {operation} {resource}",
            f"allow it: kafka-acls --add --operation {operation} ...",
        )
        for operation, resource in refusals
    ]
    if not findings and any(topic.operations is None and topic.partitions for topic in topics.values()):
        return [note("this Kafka does not say what a user may do")]
    seen = sum(bool(topic.partitions) for topic in topics.values())
    return or_ok(findings, f"{user} may do all that a worker does with {seen} topics and its groups")


def _needed(names: TopicNames) -> Mapping[TopicName, Sequence[int]]:
    """The operations of a worker on each topic. It moves requests, so it also writes to their topic."""
    writable = {
        names.rerouted,
        names.outcomes,
        names.metrics,
        names.requests,
        names.replies,
        names.dead_letters,
        names.topology,
        names.advice,
    }
    read = {*names.sharded, names.topology} - {names.advice}
    return {
        name: [*([READ] if name in read else []), *([WRITE] if name in writable else [])]
        for name in names.all
    }


def _on_topic(
    name: TopicName, topic: Topic, needed: Mapping[TopicName, Sequence[int]]
) -> Iterator[tuple[str, str]]:
    """The operations that are denied, each with its resource."""
    if topic.code == TOPIC_FORBIDDEN:
        yield "Describe", f"topic {name}"
    elif topic.operations is not None and topic.partitions:
        for operation in needed[name]:
            if operation not in topic.operations:
                yield _WORDS[operation], f"topic {name}"


async def _on_group(kafka: Kafka, name: str) -> list[tuple[str, str]]:
    try:
        group = await kafka.group(name)
    except GroupAuthorizationFailedError:
        return [("Read", f"group {name}")]
    if group.code == GROUP_FORBIDDEN or (group.operations is not None and READ not in group.operations):
        return [("Read", f"group {name}")]
    return []
