"""Makes, starts and stops the Kafka clients of a worker and of the commands, each configured for its use."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from learner_worker.contract.fields import MAX_RECORD_BYTES
from learner_worker.contract.topics import ROOMY_RECORD_BYTES
from learner_worker.kafka.batching import BATCH_BYTES
from learner_worker.kafka.connection import Connection
from learner_worker.lifecycle import KAFKA_FAILURES, end_within, start_within
from learner_worker.refusals.denials import failure, in_words

_REBALANCE_MS = 60_000  # twice what a member may take for its last checkpoint before it rejoins
_HEARTBEAT_MS = 500  # a member hears of a rebalance by its heartbeat: until then moved shards are silent
_BULK_FETCH_WAIT_MS = 100  # as long as a poll waits: longer would delay a fetch after a seek
_REQUEST_FETCH_WAIT_MS = 50  # as long as a poll waits for requests
_REPLY_METADATA_MS = 5_000  # new partitions of a reply topic are refused for at most this long
_BULK_FETCH_BYTES = 4 * 2**20
"""A fetch response is parsed in one step: aiokafka's default of 50 MiB would block the event loop for longer
than an answer may take, and would use more memory, at the same rate.
"""
_UNCOMMITTED_NEVER = "read_committed"
STOP_SECONDS = 5.0  # a stuck client is abandoned: the process must end within its supervisor's limit
_log = structlog.get_logger("learner_worker.stream")
ClientT = TypeVar("ClientT")


def event_consumer(
    connection: Connection, *, group_id: str, instance_id: str | None, session_seconds: float, assignor: Any
) -> AIOKafkaConsumer:
    """Reads the owned shards: a member of the group.

    A position that Kafka does not have raises an error: records were lost, and the shards must resume again.
    """
    session_ms = round(session_seconds * 1000)
    return AIOKafkaConsumer(
        **connection.options(),
        group_id=group_id,
        group_instance_id=instance_id,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level=_UNCOMMITTED_NEVER,
        session_timeout_ms=session_ms,
        heartbeat_interval_ms=min(_HEARTBEAT_MS, session_ms // 4),
        rebalance_timeout_ms=_REBALANCE_MS,
        partition_assignment_strategy=(assignor,),
        fetch_max_wait_ms=_BULK_FETCH_WAIT_MS,
        fetch_max_bytes=_BULK_FETCH_BYTES,
        max_partition_fetch_bytes=MAX_RECORD_BYTES,
    )


def standby_consumer(connection: Connection) -> AIOKafkaConsumer:
    """Follows changelogs; partitions are assigned manually.

    A position that Kafka does not have raises an error, as with `event_consumer`.
    """
    return _consumer_without_group(connection, auto_offset_reset="none")


def range_consumer(connection: Connection) -> AIOKafkaConsumer:
    """Reads offset ranges, assigned manually; if Kafka has deleted the start, reads what is left."""
    return _consumer_without_group(connection, auto_offset_reset="earliest")


def _consumer_without_group(connection: Connection, *, auto_offset_reset: str) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        **connection.options(),
        enable_auto_commit=False,
        auto_offset_reset=auto_offset_reset,
        isolation_level=_UNCOMMITTED_NEVER,
        fetch_max_wait_ms=_BULK_FETCH_WAIT_MS,
        fetch_max_bytes=_BULK_FETCH_BYTES,
        max_partition_fetch_bytes=MAX_RECORD_BYTES,
    )


def request_consumer(
    connection: Connection, *, group_id: str, begin: Literal["earliest", "latest"] = "latest"
) -> AIOKafkaConsumer:
    """Reads requests: as a member of the group, or of partitions that are assigned manually.

    Args:
        group_id: the group that keeps the offsets.
        begin: where a partition begins of which the group has no offset.
    """
    return AIOKafkaConsumer(
        **connection.options(),
        group_id=group_id,
        enable_auto_commit=False,
        auto_offset_reset=begin,
        isolation_level=_UNCOMMITTED_NEVER,
        heartbeat_interval_ms=_HEARTBEAT_MS,
        fetch_max_wait_ms=_REQUEST_FETCH_WAIT_MS,
    )


def bulk_producer(connection: Connection, *, request_timeout_ms: int = 30_000) -> AIOKafkaProducer:
    """Writes facts, metrics records and dead letters: acknowledged by all in-sync replicas.

    Not idempotent: duplicate facts have equal keys and merge, and an idempotent producer can get stuck.
    """
    return AIOKafkaProducer(
        **connection.options(),
        acks="all",
        max_batch_size=BATCH_BYTES,
        max_request_size=ROOMY_RECORD_BYTES + BATCH_BYTES,
        request_timeout_ms=request_timeout_ms,
    )


def reply_producer(connection: Connection) -> AIOKafkaProducer:
    """Writes replies without delay, acknowledged by the leader only: an agent that gets none asks again.

    If a reply topic gets more partitions, requests that name one are refused until its metadata is refreshed.
    """
    return AIOKafkaProducer(
        **connection.options(),
        acks=1,
        linger_ms=0,
        max_request_size=ROOMY_RECORD_BYTES,
        metadata_max_age_ms=_REPLY_METADATA_MS,
    )


async def start_client(client: Any, seconds: float) -> None:
    """Starts a consumer or producer; if that fails, stops it again.

    Raises:
        BrokerError: it did not start in time.
    """
    try:
        await start_within(client, seconds, stop=stop_client)
    except KAFKA_FAILURES as error:
        raise failure("cannot connect to Kafka", error) from error


async def stop_client(client: Any) -> None:
    """Stops a consumer or producer; abandons one that hangs, as it may while Kafka is unreachable."""
    ending = await end_within(client.stop(), STOP_SECONDS)
    if ending.failure is not None:
        _log.warning("client.stop_failed", error=in_words(ending.failure))


@asynccontextmanager
async def running(client: ClientT, start_seconds: float) -> AsyncIterator[ClientT]:
    """Starts a consumer or producer, and stops it on exit.

    Raises:
        BrokerError: it did not start in time.
    """
    await start_client(client, start_seconds)
    try:
        yield client
    finally:
        await stop_client(client)


@asynccontextmanager
async def all_running(clients: Sequence[Any], start_seconds: float) -> AsyncIterator[None]:
    """Starts consumers and producers one after the other, and stops all of them at the same time on exit.

    Raises:
        BrokerError: one did not start in time.
    """
    started: list[Any] = []
    try:
        for client in clients:
            await start_client(client, start_seconds)
            started.append(client)
        yield
    finally:
        await asyncio.gather(*map(stop_client, started))
