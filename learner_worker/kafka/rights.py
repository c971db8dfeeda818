"""The rights that a role needs, and which of them this user lacks, as Kafka reports them."""

import shlex
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import groupby
from typing import Final, NamedTuple

from aiokafka.errors import GroupAuthorizationFailedError, KafkaError

from learner_worker.contract.topics import TopicName, TopicNames
from learner_worker.errors import LearnerError, Mismatch, RefusedError
from learner_worker.interface.rights import ResourceKind, RightOperation, Role, rights_of
from learner_worker.kafka.admin import Cluster
from learner_worker.kafka.connection import Connection
from learner_worker.refusals.diagnosis import connect
from learner_worker.refusals.wire import describe_group, describe_topics

OPERATIONS: Final[Mapping[RightOperation, int]] = {
    "Read": 3,
    "Write": 4,
    "Create": 5,
    "Delete": 6,
    "Alter": 7,
    "Describe": 8,
    "DescribeConfigs": 10,
}
"""Kafka's codes of the operations. Read, Write, Delete and Alter imply Describe."""
TOPIC_FORBIDDEN, GROUP_FORBIDDEN = 29, 30  # Kafka's TOPIC_ and GROUP_AUTHORIZATION_FAILED
_UNKNOWN = -(2**31)  # Kafka's value for operations that it does not report


class Right(NamedTuple):
    """A right: an operation on a topic or a group."""

    operation: RightOperation
    kind: ResourceKind
    name: str


def needed_rights(
    names: TopicNames,
    group_id: str,
    role: Role = "worker",
    layout: int = 1,
    agent_topics: Sequence[str] = (),
) -> list[Right]:
    """A role's rights on topics and groups, by its rows in the table of rights; see `rights_of`."""
    return [
        Right(operation, granted.kind, granted.name)
        for granted in rights_of(role, names, group_id, layout, agent_topics)
        for operation in granted.operations
        if granted.kind != "cluster"  # Kafka says which of these a user has, but not by topic or group
    ]


class Permissions(NamedTuple):
    """What this user may do with a topic or a group, as Kafka reports it.

    Attributes:
        operations: None if Kafka does not report them.
        exists: whether it exists; if not, only the right to create it counts.
    """

    forbidden: bool
    operations: frozenset[int] | None
    exists: bool = True


async def missing_rights(
    needed: Sequence[Right],
    said: Mapping[tuple[ResourceKind, str], Permissions],
    creatable: Callable[[Collection[TopicName]], Awaitable[Collection[TopicName]]],
) -> list[Right]:
    """The rights that this user lacks.

    Args:
        said: the permissions for every topic and group that is named.
        creatable: returns those of some topics that may be created, also by a right on the cluster.
    """
    to_create = {right.name for right in needed if right.operation == "Create"}
    missing = [
        right
        for right in needed
        if _is_lacking(right, said[right.kind, right.name], to_create=right.name in to_create)
    ]
    uncreated = [TopicName(right.name) for right in missing if right.operation == "Create"]
    may_create = await creatable(uncreated)
    return [right for right in missing if right.operation != "Create" or right.name not in may_create]


def _is_lacking(right: Right, said: Permissions, *, to_create: bool) -> bool:
    operations = said.operations if said.exists or to_create else None
    return said.forbidden or (operations is not None and OPERATIONS[right.operation] not in operations)


def operations_in(bits: int) -> frozenset[int] | None:
    """The operations that a user may do, from Kafka's bits; None if it does not report them."""
    return None if bits == _UNKNOWN else frozenset(number for number in range(31) if bits >> number & 1)


def user_of(connection: Connection) -> str:
    """The user, as the subject of a sentence."""
    return f"user {connection.sasl_username}" if connection.sasl_username else "this client"


def commands(rights: Iterable[Right], connection: Connection) -> Iterator[tuple[str, str]]:
    """For each resource: what is missing, and the command that an administrator may paste."""
    for (kind, name), group in groupby(rights, key=lambda right: (right.kind, right.name)):
        operations = [right.operation for right in group]
        flags = " ".join(f"--operation {operation}" for operation in operations)
        command = (
            f"kafka-acls.sh --bootstrap-server {connection.bootstrap_servers} --add "
            f"--allow-principal {shlex.quote(_principal(connection))} {flags} --{kind} {shlex.quote(name)}"
        )
        yield f"{user_of(connection)} may not {' and '.join(operations)} {kind} {name}", command


def _principal(connection: Connection) -> str:
    if connection.sasl_username:
        return f"User:{connection.sasl_username}"
    return "User:ANONYMOUS" if connection.ssl_context is None else "User:CN=..."


# --- at the start -----------------------------------------------------------------------------------------


async def require_rights(
    connection: Connection,
    cluster: Cluster,
    needed: Sequence[Right],
    *,
    who: str = "a worker",
    remedy: str = "`learner-worker doctor` prints the commands that allow them",
) -> None:
    """Refuses to start without a right that would be missed later; topics that do not exist are passed over.

    Whoever may create a missing topic by a right on the cluster needs none on the topic.

    Raises:
        RefusedError: rights are missing; all of them are named.
    """
    try:
        missing = await _missing(connection, cluster, needed)
    except (KafkaError, LearnerError, OSError, TimeoutError):
        return  # this Kafka does not say: a refusal is reported when it happens
    if missing:
        raise RefusedError(
            Mismatch(
                f"{user_of(connection)} lacks rights that {who} needs: {'; '.join(_listed(missing))}", remedy
            )
        )


def _listed(rights: Sequence[Right]) -> Iterator[str]:
    for kind in ("topic", "group"):
        for operation in OPERATIONS:
            of_kind = [right.name for right in rights if (right.operation, right.kind) == (operation, kind)]
            if of_kind:
                yield f"{operation} on {kind} {', '.join(of_kind)}"


async def _missing(connection: Connection, cluster: Cluster, needed: Sequence[Right]) -> list[Right]:
    names = {right.name for right in needed if right.kind == "topic"}
    with closing(await connect(connection.options(), *await cluster.any_broker())) as conn:
        *_, topics, _ = await conn.send(describe_topics(sorted(names)))
    said: dict[tuple[ResourceKind, str], Permissions] = {
        ("topic", name): Permissions(code == TOPIC_FORBIDDEN, operations_in(bits), bool(partitions))
        for code, name, _, partitions, bits in topics
    }
    for group in {right.name for right in needed if right.kind == "group"}:
        said["group", group] = await _of_group(connection, cluster, group)
    return await missing_rights(needed, said, cluster.creatable)


async def _of_group(connection: Connection, cluster: Cluster, group_id: str) -> Permissions:
    try:
        with closing(await connect(connection.options(), *await cluster.coordinator(group_id))) as conn:
            _, ((code, *_, bits),) = await conn.send(describe_group(group_id))
    except GroupAuthorizationFailedError:
        return Permissions(forbidden=True, operations=None)
    except KafkaError:
        return Permissions(forbidden=False, operations=None)  # a new cluster may have no coordinator at first
    return Permissions(code == GROUP_FORBIDDEN, operations_in(bits))
