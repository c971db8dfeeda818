"""Checks this user's permissions as Kafka reports them, without trying operations."""

from collections.abc import Sequence

from aiokafka.errors import GroupAuthorizationFailedError

from learner_worker.contract.topics import TopicName
from learner_worker.doctor.case import Case
from learner_worker.doctor.findings import Finding, error, note, or_ok
from learner_worker.doctor.kafka import Kafka
from learner_worker.interface.rights import ResourceKind
from learner_worker.kafka.rights import (
    GROUP_FORBIDDEN,
    TOPIC_FORBIDDEN,
    Permissions,
    commands,
    missing_rights,
    needed_rights,
    user_of,
)


async def check_rights(case: Case) -> Sequence[Finding]:
    """Checks the permissions that the role needs: for a worker reading, writing and joining the groups."""
    kafka, connection = await case.kafka(), case.connection()
    settings = case.settings
    first, topics_of_agents = settings.topics().named(), settings.agent_topics
    needed = needed_rights(first, settings.group_id, case.role, case.layout, topics_of_agents)
    named = (TopicName(right.name) for right in needed if right.kind == "topic")
    topics = await kafka.topics(tuple(dict.fromkeys((*case.names.all, *named))))
    said: dict[tuple[ResourceKind, str], Permissions] = {
        ("topic", name): Permissions(topic.code == TOPIC_FORBIDDEN, topic.operations, bool(topic.partitions))
        for name, topic in topics.items()
    }
    for group in {right.name for right in needed if right.kind == "group"}:
        said["group", group] = await _of_group(kafka, group)
    missing = await missing_rights(needed, said, kafka.creatable)
    findings = [error(what, f"allow it: {command}") for what, command in commands(missing, connection)]
    if not findings and any(topic.operations is None and topic.partitions for topic in topics.values()):
        return [note("this Kafka does not say what a user may do")]
    seen = sum(bool(topic.partitions) for topic in topics.values())
    user = user_of(connection)
    who = "a worker does" if case.role == "worker" else f"role {case.role} needs"
    return or_ok(findings, f"{user} may do all that {who} with {seen} topics and its groups")


async def _of_group(kafka: Kafka, name: str) -> Permissions:
    try:
        group = await kafka.group(name)
    except GroupAuthorizationFailedError:
        return Permissions(forbidden=True, operations=None)
    return Permissions(group.code == GROUP_FORBIDDEN, group.operations)
