"""An admin client's view of the cluster: its topics, and a group's committed offsets and members."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from typing import Any, Protocol

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError, UnknownMemberIdError, for_code
from aiokafka.protocol.group import LeaveGroupRequest

from learner_worker.contract.topics import TopicName, TopicNames
from learner_worker.errors import BrokerError, LearnerError, RefusedError
from learner_worker.kafka.connection import Connection
from learner_worker.lifecycle import KAFKA_FAILURES, start_within
from learner_worker.refusals.denials import failure, in_words, topics_denied
from learner_worker.refusals.diagnosis import Diagnosis, connect, diagnosed
from learner_worker.refusals.wire import describe_instances, describe_topics

_REQUEST_TIMEOUT_MS = 15_000  # a busy controller may take several seconds to create topics
_RETRY_SECONDS = 0.5  # a starting broker is noticed soon, and a missing one hardly loaded
_LEAST_DIAGNOSIS_SECONDS = 2.0  # enough for a broker that answers, also when the time is used up
_REACH_SECONDS = 5.0  # several times what a healthy broker takes to answer
_MAX_REPLICATION = 3  # Kafka's usual choice: more copies only slow writes with acks=all
NO_ERROR = 0  # Kafka's error code for success
_OF_TOPIC = 1  # Kafka's DYNAMIC_TOPIC_CONFIG, a setting's source
_TOPIC_EXISTS = 36  # Kafka's TOPIC_ALREADY_EXISTS
REBALANCING = {"PreparingRebalance", "CompletingRebalance"}


@dataclass(frozen=True, slots=True)
class Committed:
    """A group's committed offset of a partition, with its metadata."""

    offset: int
    metadata: str


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A member of a consumer group, with its subscription metadata and its assignment.

    Attributes:
        instance_id: the id of a static member; None if it was not requested.
    """

    member_id: str
    client_host: str
    metadata: bytes
    assignment: bytes = b""
    instance_id: str | None = None


class Cluster:
    """An admin client's view of a running cluster."""

    def __init__(self, admin: Any, connection: Connection, cluster_id: str, brokers: int) -> None:
        self._admin = admin
        self._connection = connection
        self.cluster_id = cluster_id
        self.brokers = brokers

    async def current_id(self) -> str:
        """The id of the cluster that answers now."""
        return _id_in(await self._admin.describe_cluster())

    async def partitions(self, topics: Iterable[TopicName]) -> dict[TopicName, int]:
        """The partition counts of those topics that exist.

        Raises:
            RefusedError: this user may not see one of them, so that nobody can say whether it exists.
        """
        wanted = list(topics)
        found = await self._listed(wanted)
        if absent := [topic for topic in wanted if topic not in found]:
            await self._require_visible(absent)
        return found

    async def _require_visible(self, absent: Sequence[TopicName]) -> None:
        try:
            with closing(await connect(self._connection.options(), *await self.any_broker())) as conn:
                *_, described, _ = await conn.send(describe_topics(absent))
        except (*KAFKA_FAILURES, LearnerError):
            return  # this Kafka cannot tell
        if hidden := [name for code, name, *_ in described if code == TopicAuthorizationFailedError.errno]:
            raise RefusedError(topics_denied(hidden))

    async def any_broker(self) -> tuple[str, int]:
        """The address of a broker."""
        broker = (await self._admin.describe_cluster())["brokers"][0]
        return str(broker["host"]), int(broker["port"])

    async def _listed(self, topics: Iterable[TopicName]) -> dict[TopicName, int]:
        names = {str(topic): topic for topic in topics}
        # All topics, not these by name: asking for a missing one may make the broker create it.
        described = await self._admin.describe_topics()
        return {
            names[topic["topic"]]: len(topic["partitions"])
            for topic in described
            if topic["error_code"] == NO_ERROR and topic["topic"] in names
        }

    async def create_topics(
        self,
        topics: TopicNames,
        *,
        partitions: int,
        replication_factor: int | None,
        only: Collection[TopicName] | None = None,
        configured: Mapping[TopicName, Mapping[str, str]] | None = None,
    ) -> list[TopicName]:
        """Creates the topics that do not exist; returns those.

        Args:
            partitions: the number of shards.
            only: these topics; None stands for all of them.
            configured: settings of topics that take precedence over those they get otherwise.

        Raises:
            BrokerError: Kafka refused to create one.
        """
        wanted, changed = topics.all if only is None else only, configured or {}
        existing = await self.partitions(wanted)
        missing = [topic for topic in wanted if topic not in existing]
        if not missing:
            return []
        factor = replication_factor or min(_MAX_REPLICATION, self.brokers)
        response = await self._admin.create_topics(
            [
                NewTopic(
                    topic,
                    topics.partitions(topic, partitions),
                    factor,
                    topic_configs={**topics.configuration(topic), **changed.get(topic, {})},
                )
                for topic in missing
            ]
        )
        for topic, code, *message in response.topic_errors:
            if code not in {NO_ERROR, _TOPIC_EXISTS}:
                error = for_code(code)(*([topic] if code == TopicAuthorizationFailedError.errno else message))
                raise failure(f"Kafka did not create {topic}", error)
        await self._until_visible(wanted)
        return missing

    async def creatable(self, topics: Collection[TopicName]) -> set[TopicName]:
        """The topics that this user may create; none is created."""
        if not topics:
            return set()
        asked = [NewTopic(topic, 1, 1) for topic in topics]
        response = await self._admin.create_topics(asked, validate_only=True)
        return {
            TopicName(topic)
            for topic, code, *_ in response.topic_errors
            if code != TopicAuthorizationFailedError.errno
        }

    async def own_configuration(self, topics: Collection[TopicName]) -> Mapping[TopicName, Mapping[str, str]]:
        """The settings that were given to topics themselves; those of the brokers are left out.

        Raises:
            BrokerError: Kafka does not say, or not to this user.
        """
        what = f"Kafka does not say how {', '.join(topics)} are configured"
        resources = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
        try:
            answers = await self._admin.describe_configs(resources)
            for answer in answers:
                for code, _, _, topic, _ in answer.resources:
                    if code != NO_ERROR:
                        raise for_code(code)(topic)
        except (KafkaError, TimeoutError) as error:
            raise failure(what, error) from error
        return {
            TopicName(topic): {
                name: value
                for name, value, _, source, *_ in entries
                if value is not None and _is_own(answer.API_VERSION, source)
            }
            for answer in answers
            for _, _, _, topic, entries in answer.resources
        }

    async def raise_partitions(self, topics: Sequence[TopicName], partitions: int) -> None:
        """Gives existing topics a higher number of partitions.

        Raises:
            BrokerError: Kafka refused.
        """
        if not topics:
            return
        try:
            await self._admin.create_partitions({topic: NewPartitions(partitions) for topic in topics})
        except KafkaError as error:
            raise failure(f"Kafka did not raise the partitions of {', '.join(topics)}", error) from error
        await self._until_visible(topics, partitions)

    async def delete_topics(self, topics: Sequence[TopicName]) -> None:
        """Deletes the topics.

        Raises:
            BrokerError: Kafka refused to delete them.
        """
        try:
            await self._admin.delete_topics(list(topics))
        except KafkaError as error:
            raise failure(f"Kafka did not delete {', '.join(topics)}", error) from error

    async def _until_visible(self, topics: Collection[TopicName], partitions: int = 1) -> None:
        deadline = asyncio.get_running_loop().time() + _REQUEST_TIMEOUT_MS / 1000
        while sum(count >= partitions for count in (await self._listed(topics)).values()) < len(topics):
            if asyncio.get_running_loop().time() > deadline:
                raise BrokerError("Kafka accepted the topics but does not list them yet: try again")
            await asyncio.sleep(_RETRY_SECONDS / 5)

    async def committed(self, group_id: str) -> Mapping[TopicPartition, Committed]:
        """A group's commits, by partition; empty for an unknown group."""
        offsets = await self._admin.list_consumer_group_offsets(group_id)
        return {
            partition: Committed(found.offset, found.metadata or "")
            for partition, found in offsets.items()
            if found.offset >= 0
        }

    async def coordinator(self, group_id: str) -> tuple[str, int]:
        """The address of the broker that coordinates a group."""
        node = await self._admin.find_coordinator(group_id)
        brokers = (await self._admin.describe_cluster())["brokers"]
        for broker in brokers:
            if broker["node_id"] == node:
                return str(broker["host"]), int(broker["port"])
        raise BrokerError(f"the coordinator of group {group_id}, broker {node}, is not in the cluster")

    async def stable_members(self, group_id: str) -> list[GroupMember] | None:
        """A group's members; None while it rebalances."""
        (described,) = await self._admin.describe_consumer_groups([group_id])
        ((code, _, state, _, _, members, *_),) = described.groups
        if code != NO_ERROR or state in REBALANCING:
            return None
        return [GroupMember(member_id, host, *encoded) for member_id, _, host, *encoded in members]

    async def static_members(self, group_id: str) -> list[GroupMember]:
        """A group's static members; while it rebalances, without their metadata.

        Raises:
            KafkaError: the group's coordinator refused, or is not known now.
            OldKafkaError: this Kafka does not show instance ids.
        """
        _, ((code, *_, members, _),) = await self._ask_coordinator(group_id, describe_instances(group_id))
        if code != NO_ERROR:
            raise for_code(code)(f"group {group_id}")
        return [
            GroupMember(member_id, host, metadata, assignment, instance_id)
            for member_id, instance_id, _, host, metadata, assignment in members
            if instance_id is not None
        ]

    async def remove_member(self, group_id: str, member_id: str) -> None:
        """Sends LeaveGroup for a member: the group rebalances at once. Does nothing if the member is gone.

        Raises:
            KafkaError: the group's coordinator refused it, or is not known now.
        """
        code = (await self._ask_coordinator(group_id, LeaveGroupRequest(group_id, member_id))).error_code
        if code not in {NO_ERROR, UnknownMemberIdError.errno}:
            raise for_code(code)(f"member {member_id} of group {group_id}")

    async def _ask_coordinator(self, group_id: str, request: Any) -> Any:
        """Sends a group's coordinator a request for which aiokafka's admin client has no method."""
        send = getattr(self._admin, "_send_request", None)
        if send is None:
            raise KafkaError("this aiokafka has no way to ask a group's coordinator")
        return await send(request, await self._admin.find_coordinator(group_id))


def _is_own(version: int, source: int) -> bool:
    """Whether a setting was given to its topic; the first version says only whether it is a default."""
    return source == _OF_TOPIC if version > 0 else not source


class Administrator(Protocol):
    """Opens a connection of an admin client; `connected`, bound to a cluster, is one."""

    def __call__(self, *, patience_seconds: float) -> AbstractAsyncContextManager[Cluster]:
        """Opens a connection; retries for up to `patience_seconds`.

        Raises:
            BrokerError: no Kafka broker answers at the address, or it refuses the credentials.
        """
        ...


async def is_reached(administrator: Administrator) -> bool:
    """Whether Kafka can be reached now."""
    try:
        async with administrator(patience_seconds=_REACH_SECONDS) as cluster:
            return cluster.brokers > 0
    except (BrokerError, *KAFKA_FAILURES):
        return False


@asynccontextmanager
async def connected(connection: Connection, *, patience_seconds: float) -> AsyncIterator[Cluster]:
    """Opens an admin client's connection; retries for up to `patience_seconds`.

    Raises:
        BrokerError: no Kafka broker answers at the address, or it refuses the credentials.
    """
    admin, described = await _start_admin(connection, patience_seconds)
    try:
        yield Cluster(admin, connection, _id_in(described), len(described["brokers"]))
    finally:
        await admin.close()


def _id_in(described: Mapping[str, Any]) -> str:
    return str(described.get("cluster_id") or "")


async def _start_admin(connection: Connection, patience_seconds: float) -> tuple[Any, Mapping[str, Any]]:
    """Starts an admin client that has an answer from one of the cluster's own addresses."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_seconds
    diagnosis: Diagnosis | None = None
    while True:
        try:
            return await _try_admin(connection, max(1.0, deadline - loop.time()))
        except KAFKA_FAILURES as error:
            before, left = diagnosis, deadline - loop.time()
            diagnosis = await diagnosed(connection.options(), max(_LEAST_DIAGNOSIS_SECONDS, left))
            confirmed = diagnosis is not None and diagnosis.refused and diagnosis == before
            if confirmed or loop.time() + _RETRY_SECONDS >= deadline:
                raise _unreachable(connection, diagnosis, error) from error
        await asyncio.sleep(_RETRY_SECONDS)


def _unreachable(connection: Connection, diagnosis: Diagnosis | None, error: Exception) -> BrokerError:
    if diagnosis is not None:
        return diagnosis.error(connection.bootstrap_servers)
    return BrokerError(
        f"cannot reach Kafka at {connection.bootstrap_servers} ({in_words(error)}): start the broker, "
        "or set its address with --bootstrap-servers or LEARNER_BOOTSTRAP_SERVERS"
    )


async def _try_admin(connection: Connection, timeout_seconds: float) -> tuple[Any, Mapping[str, Any]]:
    admin = AIOKafkaAdminClient(**connection.options(), request_timeout_ms=_REQUEST_TIMEOUT_MS)
    await start_within(admin, timeout_seconds, stop=AIOKafkaAdminClient.close)
    try:
        async with asyncio.timeout(timeout_seconds):
            return admin, await admin.describe_cluster()
    except BaseException:
        await admin.close()
        raise
