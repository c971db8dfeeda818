"""Checks this user's permissions as Kafka reports them, without trying operations."""

from collections.abc import Collection, Mapping, Sequence

from aiokafka.errors import GroupAuthorizationFailedError

from learner_worker.contract.topics import TopicName
from learner_worker.doctor.case import Case
from learner_worker.doctor.findings import Finding, error, note, or_ok
from learner_worker.doctor.kafka import Kafka, Topic
from learner_worker.kafka.rights import (
    GROUP_FORBIDDEN,
    TOPIC_FORBIDDEN,
    Right,
    commands,
    is_lacking,
    needed_rights,
    user_of,
)


async def check_rights(case: Case) -> Sequence[Finding]:
    """Checks the permissions that the role needs: for a worker reading, writing and joining the groups."""
    kafka, connection = await case.kafka(), case.connection()
    needed = needed_rights(case.settings.topics().named(), case.settings.group_id, case.role, case.layout)
    named = (TopicName(right.name) for right in needed if right.kind == "topic")
    topics = await kafka.topics(tuple(dict.fromkeys((*case.names.all, *named))))
    to_create = {right.name for right in needed if right.operation == "Create"}
    missing = [right for right in needed if await _is_missing(kafka, right, topics, to_create)]
    findings = [error(what, f"allow it: {command}") for what, command in commands(missing, connection)]
    if not findings and any(topic.operations is None and topic.partitions for topic in topics.values()):
        return [note("this Kafka does not say what a user may do")]
    seen = sum(bool(topic.partitions) for topic in topics.values())
    user = user_of(connection)
    who = "a worker does" if case.role == "worker" else f"role {case.role} needs"
    return or_ok(findings, f"{user} may do all that {who} with {seen} topics and its groups")


async def _is_missing(
    kafka: Kafka, right: Right, topics: Mapping[TopicName, Topic], to_create: Collection[str]
) -> bool:
    if right.kind == "topic":
        topic = topics[TopicName(right.name)]
        operations = topic.operations if topic.partitions or right.name in to_create else None
        return is_lacking(right, forbidden=topic.code == TOPIC_FORBIDDEN, operations=operations)
    try:
        group = await kafka.group(right.name)
    except GroupAuthorizationFailedError:
        return True
    return is_lacking(right, forbidden=group.code == GROUP_FORBIDDEN, operations=group.operations)
