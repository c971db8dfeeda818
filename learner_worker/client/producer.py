"""The publisher's producer: replaced when it has ended or is stuck."""

import asyncio
from collections.abc import Awaitable
from typing import Any, NamedTuple

from aiokafka.errors import MessageSizeTooLargeError, RecordListTooLargeError
from aiokafka.partitioner import DefaultPartitioner

from learner_worker.client.connection import (
    RETRY_SECONDS,
    ClientConnection,
    is_dead,
    log,
    stop_producer,
)
from learner_worker.errors import BrokerError
from learner_worker.lifecycle import KAFKA_FAILURES

_OF_BATCH = (MessageSizeTooLargeError, RecordListTooLargeError)
"""Refusals that a batch may get although each of its records would be taken."""
_SETTINGS: dict[str, Any] = {"acks": "all", "enable_idempotence": True, "linger_ms": 0}


class KeyedRecord(NamedTuple):
    """A record whose key chooses its partition."""

    topic: str
    key: bytes
    value: bytes


class PersistentProducer:
    """Starts a producer when one is needed, and replaces it when it is stuck, until it is closed."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._open = False
        self._starting = asyncio.Lock()
        self._alone = asyncio.Lock()
        self._producer: Any = None
        self._failure: Exception | None = None
        self._acknowledged_at = 0.0
        self._endings: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Allows producers to be started, by the event loop that runs now."""
        self._starting, self._alone = asyncio.Lock(), asyncio.Lock()
        self._open = True

    async def started(self) -> Any:
        """Returns the producer, starting it if necessary; waits for Kafka without a time limit.

        Raises:
            BrokerError: the publisher is not open.
            ConfigurationError: it can never start.
        """
        if not self._open:
            raise BrokerError("the publisher is not open: publish inside `async with EventPublisher(...)`")
        async with self._starting:
            while self._producer is None:
                try:
                    self._producer = await self._connection.start_producer(**_SETTINGS)
                except (*KAFKA_FAILURES, BrokerError) as error:
                    self._failure = error
                    await asyncio.sleep(RETRY_SECONDS)
            return self._producer

    def not_started(self) -> BrokerError:
        """The error for a producer that could not be started; the message says what to do next."""
        return self._connection.failure(self._failure)

    def replace_if_stuck(self, producer: Any, error: Exception, since: float) -> None:
        """Give up this producer if it has ended, or timed out without any acknowledgement since `since`."""
        silent = isinstance(error, TimeoutError) and self._acknowledged_at < since
        if producer is not None and producer is self._producer and (silent or is_dead(producer)):
            log.warning("events.producer-replaced: %r", error)
            self._producer = None
            ending = asyncio.create_task(
                stop_producer(producer, flush_seconds=0), name="learner-events-ending"
            )
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)

    async def until_acknowledged(self, producer: Any, sent: Awaitable[Any], record: KeyedRecord) -> None:
        """Waits until Kafka has acknowledged a record; one refused with its batch is sent again on its own.

        Raises:
            KafkaError: Kafka does not take it.
        """
        try:
            await sent
        except _OF_BATCH:
            async with self._alone:  # aiokafka has one place for a whole batch: others would time out
                await _send_alone(producer, record)
        self._acknowledged_at = asyncio.get_running_loop().time()

    async def close(self) -> None:
        """Stop the producers that were started, within a time limit."""
        self._open = False
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_producer(producer)
        if self._endings:
            await asyncio.wait(self._endings)


async def _send_alone(producer: Any, record: KeyedRecord) -> None:
    batch = producer.create_batch()
    batch.append(key=record.key, value=record.value, timestamp=None)
    partitions = sorted(await producer.partitions_for(record.topic))
    partition = DefaultPartitioner()(record.key, partitions, partitions)
    await (await producer.send_batch(batch, record.topic, partition=partition))
