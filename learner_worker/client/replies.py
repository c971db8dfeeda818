"""A client's session with Kafka: one producer, one reply consumer, many requests in flight."""

import asyncio
import random
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Literal

from aiokafka import TopicPartition
from pydantic import ValidationError

from learner_worker.client.connection import CONNECT_SECONDS, ClientConnection, stop_consumer, stop_producer
from learner_worker.contract.headers import CORRELATION_ID, ERROR_HEADER, header
from learner_worker.contract.suggestions import INTERNAL, SuggestBidError, SuggestBidReply
from learner_worker.contract.topics import TopicNames
from learner_worker.errors import BrokerError, ConfigurationError, SuggestionError

FETCH_MAX_WAIT_MS = 50  # a fetch for another partition of the same broker waits behind it
READ_MS = 1000  # the interval of the checks whether Kafka still answers
LAST_ASKS_SECONDS = 0.2
"""Time limit for sending the last requests of a session that ends: their replies are not awaited."""
SILENT_READS = 10
"""Reads without any answer from Kafka (10 s) after which the session is reopened: beyond a failover."""

_REQUESTS_SETTINGS: dict[str, Any] = {"acks": 1, "linger_ms": 0, "enable_idempotence": False}
_REPLIES_SETTINGS: dict[str, Any] = {
    "fetch_max_wait_ms": FETCH_MAX_WAIT_MS,
    "auto_offset_reset": "latest",
    "enable_auto_commit": False,
}


ALL_PARTITIONS: Final = "all"
ReplyPartition = int | Literal["all"] | None


class OwnPartition:
    """The partition of the reply topic that a client uses, the same for its lifetime.

    Args:
        wanted: a partition number, ALL_PARTITIONS, or None for a random one.
    """

    def __init__(self, wanted: ReplyPartition) -> None:
        self._wanted = wanted
        self._picked: int | None = None

    def among(self, existing: Collection[int], topic: str) -> int | None:
        """The client's partition among the existing ones; None if it reads all of them.

        Raises:
            ConfigurationError: the wanted one does not exist.
        """
        if self._wanted == ALL_PARTITIONS:
            return None
        if self._wanted is None:
            if self._picked not in existing:  # kept: replies to earlier requests go there
                self._picked = random.choice(sorted(existing))  # noqa: S311 (to spread, not to hide)
            return self._picked
        if type(self._wanted) is not int or self._wanted not in existing:
            raise ConfigurationError(
                f"reply_partition {self._wanted!r} does not exist: {topic} has {len(existing)} partitions, "
                f"from 0 to {max(existing)}; give one of them, None for any one, or {ALL_PARTITIONS!r}"
            )
        return self._wanted


@dataclass(frozen=True, slots=True)
class Session:
    """An open session: requests can be sent, and no reply to them can be missed.

    Attributes:
        reply_partition: the partition of all replies; None if they go to the partitions of their keys.
    """

    producer: Any
    consumer: Any
    reply_partition: int | None


@asynccontextmanager
async def open_session(
    connection: ClientConnection, topics: TopicNames, own_partition: OwnPartition
) -> AsyncIterator[Session]:
    """Open a session, in this order, so that even the reply to the first request is read.

    1. The producer starts and knows the partitions of requests and replies.
    2. The reply partitions are assigned manually: without a group there are no rebalances.
    3. The consumer's position on each of them is set to the current end.

    Raises one of `lifecycle.KAFKA_FAILURES`, or ConfigurationError.
    """
    async with AsyncExitStack() as stack:
        # 1.
        producer = await connection.start_producer(**_REQUESTS_SETTINGS)
        stack.push_async_callback(stop_producer, producer, flush_seconds=LAST_ASKS_SECONDS)
        async with asyncio.timeout(CONNECT_SECONDS):
            await producer.partitions_for(topics.requests)
            existing = set(await producer.partitions_for(topics.replies))
        own = own_partition.among(existing, topics.replies)
        # 2.
        consumer = await connection.start_consumer(**_REPLIES_SETTINGS)
        stack.push_async_callback(stop_consumer, consumer)
        numbers = sorted(existing) if own is None else [own]
        partitions = [TopicPartition(topics.replies, number) for number in numbers]
        consumer.assign(partitions)
        # 3.
        async with asyncio.timeout(CONNECT_SECONDS):
            await consumer.seek_to_end(*partitions)
            for partition in partitions:
                await consumer.position(partition)
        yield Session(producer, consumer, own)


class PendingReplies:
    """The replies that requests wait for, by correlation id; removed when the request ends."""

    def __init__(self) -> None:
        self._pending: dict[bytes, asyncio.Future[Any]] = {}

    def __len__(self) -> int:
        return len(self._pending)

    @contextmanager
    def expect(self, correlation_id: str) -> Iterator[asyncio.Future[Any]]:
        """Yields a future of the reply's record; removes it on exit."""
        key = correlation_id.encode()
        reply = self._pending[key] = asyncio.get_running_loop().create_future()
        try:
            yield reply
        finally:
            del self._pending[key]
            reply.cancel()

    def fail(self, error: Exception) -> None:
        """Fail all pending requests with an error."""
        for reply in self._pending.values():
            if not reply.done():
                reply.set_exception(error)

    async def read(self, consumer: Any) -> None:
        """Deliver replies to the requests that wait for them, until Kafka stops answering.

        Raises:
            BrokerError: no answer from Kafka for SILENT_READS reads in a row.
        """
        silent_reads, answered_at = 0, 0
        while silent_reads < SILENT_READS:
            batches = await consumer.getmany(timeout_ms=READ_MS)
            for record in chain.from_iterable(batches.values()):
                self.deliver(record)
            # After a broker restart aiokafka may stay stuck; an idle Kafka, in contrast, answers fetches.
            before, answered_at = answered_at, _answered_at(consumer)
            silent_reads = 0 if batches or answered_at != before else silent_reads + 1
        raise BrokerError(f"Kafka has not answered for {SILENT_READS * READ_MS // 1000} s: reconnecting")

    def deliver(self, record: Any) -> None:
        """Hand a reply's record to the request that waits for it; ignore it if none does."""
        reply = self._pending.get(header(record.headers, CORRELATION_ID) or b"")
        if reply is not None and not reply.done():
            reply.set_result(record)


def _answered_at(consumer: Any) -> int:
    """When Kafka last answered a fetch of any partition, in milliseconds."""
    return max(consumer.last_poll_timestamp(partition) or 0 for partition in consumer.assignment())


def read_reply(record: Any) -> SuggestBidReply:
    """Decodes the advice in a reply's record.

    Raises:
        SuggestionError: the learner answered with an error; INTERNAL if the reply cannot be decoded.
    """
    try:
        if header(record.headers, ERROR_HEADER) is None:
            return SuggestBidReply.model_validate_json(record.value or b"")
        error = SuggestBidError.model_validate_json(record.value or b"").error
    except ValidationError as unreadable:
        raise SuggestionError(
            INTERNAL,
            "the learner's reply cannot be read: this client and the learner are of versions that do not fit,"
            f" upgrade the older one: {unreadable}",
        ) from unreadable
    raise SuggestionError(error.code, error.message, retry_after_ms=error.retry_after_ms)
