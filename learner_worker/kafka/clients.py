"""The Kafka clients of a worker and of the commands, each set up for its one purpose; started and stopped."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from learner_worker.contract.fields import MAX_RECORD_BYTES
from learner_worker.contract.topics import ROOMY_RECORD_BYTES
from learner_worker.errors import BrokerError
from learner_worker.kafka.batching import BATCH_BYTES
from learner_worker.kafka.connection import Connection
from learner_worker.lifecycle import KAFKA_FAILURES, end_within, start_within

_REBALANCE_MS = 60_000
_BULK_FETCH_WAIT_MS = 100
_LANE_FETCH_WAIT_MS = 50
_REPLY_METADATA_MS = 5_000
_BULK_FETCH_BYTES = 4 * 2**20
"""An answer is taken apart in one go. With aiokafka's 50 MiB a backlog on twelve partitions came as 36 MB at
once and stopped the loop for 50 ms; now 10 (processor time), the rate is the same, and it takes 55 MB less.
"""
_UNCOMMITTED_NEVER = "read_committed"
_STOP_SECONDS = (
    5.0  # a client that is stuck is left behind: the process must end within its orchestrator's grace
)
_log = structlog.get_logger("learner_worker.stream")
ClientT = TypeVar("ClientT")


def event_consumer(
    connection: Connection, *, group_id: str, instance_id: str | None, session_seconds: float, assignor: Any
) -> AIOKafkaConsumer:
    """Reads the owned shards: a member of the group.

    A position that Kafka does not have raises instead of jumping: records were lost, the shards resume anew.
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
        heartbeat_interval_ms=session_ms // 4,
        rebalance_timeout_ms=_REBALANCE_MS,
        partition_assignment_strategy=(assignor,),
        fetch_max_wait_ms=_BULK_FETCH_WAIT_MS,
        fetch_max_bytes=_BULK_FETCH_BYTES,
        max_partition_fetch_bytes=MAX_RECORD_BYTES,
    )


def standby_consumer(connection: Connection) -> AIOKafkaConsumer:
    """Follows changelogs, assigned by hand.

    A position that Kafka does not have raises instead of jumping, as with `ingest_consumer`.
    """
    return _consumer_without_group(connection, auto_offset_reset="none")


def range_consumer(connection: Connection) -> AIOKafkaConsumer:
    """Reads ranges of offsets, assigned by hand; if Kafka has deleted the start, what it still has."""
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


def request_consumer(connection: Connection, *, group_id: str) -> AIOKafkaConsumer:
    """Reads requests, assigned by hand; the group only keeps the offsets."""
    return AIOKafkaConsumer(
        **connection.options(),
        group_id=group_id,
        enable_auto_commit=False,
        auto_offset_reset="latest",
        isolation_level=_UNCOMMITTED_NEVER,
        fetch_max_wait_ms=_LANE_FETCH_WAIT_MS,
    )


def bulk_producer(connection: Connection, *, request_timeout_ms: int = 30_000) -> AIOKafkaProducer:
    """Writes facts and the like: acknowledged by all in-sync replicas.

    Not idempotent: equal facts have equal keys and merge, and an idempotent producer can wedge.
    """
    return AIOKafkaProducer(
        **connection.options(),
        acks="all",
        max_batch_size=BATCH_BYTES,
        max_request_size=ROOMY_RECORD_BYTES + BATCH_BYTES,
        request_timeout_ms=request_timeout_ms,
    )


def reply_producer(connection: Connection) -> AIOKafkaProducer:
    """Writes replies: at once, and a lost one is asked for again.

    A reply topic may be given more partitions: requests that name one are refused until they are known.
    """
    return AIOKafkaProducer(
        **connection.options(),
        acks=1,
        linger_ms=0,
        max_request_size=ROOMY_RECORD_BYTES,
        metadata_max_age_ms=_REPLY_METADATA_MS,
    )


async def start_client(client: Any, seconds: float) -> None:
    """Starts a consumer or producer; one that does not start is stopped.

    Raises:
        BrokerError: it did not start in time.
    """
    try:
        await start_within(client, seconds, stop=stop_client)
    except KAFKA_FAILURES as error:
        raise BrokerError(f"cannot connect to Kafka: {in_words(error)}") from error


async def stop_client(client: Any) -> None:
    """Stops a consumer or producer; one that hangs, as it may while Kafka is away, is left behind."""
    ending = await end_within(client.stop(), _STOP_SECONDS)
    if ending.failure is not None:
        _log.warning("client.stop_failed", error=repr(ending.failure))


@asynccontextmanager
async def running(client: ClientT, start_seconds: float) -> AsyncIterator[ClientT]:
    """A consumer or producer from its start to its stop.

    Raises:
        BrokerError: it did not start in time.
    """
    await start_client(client, start_seconds)
    try:
        yield client
    finally:
        await stop_client(client)


def in_words(error: BaseException) -> str:
    """Why Kafka could not be reached, as a sentence puts it."""
    if isinstance(error, TimeoutError):
        return "no answer"
    return str(error) or type(error).__name__
