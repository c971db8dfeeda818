"""The client's connection to Kafka: every wait has a time limit, every error says what to do next.

aiokafka itself waits without end while Kafka is unreachable: an idempotent producer to start, `send` for
metadata, `stop` for unsent records.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from learner_worker.errors import BrokerError, ConfigurationError
from learner_worker.lifecycle import KAFKA_FAILURES, end_within, start_within
from learner_worker.refusals.denials import denial, failure, in_words
from learner_worker.refusals.diagnosis import diagnosed

CONNECT_SECONDS = 10.0  # connecting to a distant cluster with TLS and SASL takes a few
_DIAGNOSIS_SECONDS = 2.0  # a broker that answers says at once what it wants
STOP_SECONDS = 2.0  # closing a client must not wait for an unreachable Kafka
RETRY_SECONDS = 0.25  # an agent that keeps asking is reconnected soon
_ABANDON_STEP_SECONDS = 0.1  # aiokafka has no event for the end of its task, so it is polled
REQUEST_TIMEOUT_MS = 5000  # aiokafka's default of 40 s would leave a half-open connection unnoticed

log = logging.getLogger("learner_worker.client")


@dataclass(frozen=True, slots=True)
class ClientConnection:
    """How to reach Kafka: `options` are passed to aiokafka and override the client's own settings."""

    bootstrap_servers: str
    client_id: str
    options: Mapping[str, Any]

    async def start_producer(self, **settings: Any) -> Any:
        """Starts an `AIOKafkaProducer`; raises one of KAFKA_FAILURES, BrokerError or ConfigurationError."""
        return await self._start(AIOKafkaProducer, stop_producer, settings)

    async def start_consumer(self, **settings: Any) -> Any:
        """Starts an `AIOKafkaConsumer` without partitions; raises as `start_producer`."""
        return await self._start(AIOKafkaConsumer, stop_consumer, settings)

    async def _start(self, kind: Any, stop: Callable[[Any], Any], settings: dict[str, Any]) -> Any:
        client = self._make(kind, settings)
        try:
            await start_within(client, CONNECT_SECONDS, stop=stop)
        except KAFKA_FAILURES as error:
            options = {**self.options, "bootstrap_servers": self.bootstrap_servers}
            diagnosis = await diagnosed(options, _DIAGNOSIS_SECONDS)
            if diagnosis is None:
                raise
            raise diagnosis.error(self.bootstrap_servers) from error
        return client

    def _make(self, kind: Any, settings: dict[str, Any]) -> Any:
        ours = {"bootstrap_servers": self.bootstrap_servers, "client_id": self.client_id}
        common = {"request_timeout_ms": REQUEST_TIMEOUT_MS}
        try:
            return kind(**{**ours, **common, **settings, **self.options})
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigurationError(f"aiokafka refuses these kafka_options: {error}") from error

    def failure(self, error: BaseException | None) -> BrokerError:
        """Makes the error for a failure, with a message that says what to do next."""
        if isinstance(error, BrokerError):
            return error
        if isinstance(error, ConfigurationError):
            return BrokerError(str(error))
        if isinstance(error, UnknownTopicOrPartitionError):
            return BrokerError(
                f"Kafka at {self.bootstrap_servers} does not have the topic: create the topics with "
                "`learner-worker topics create`, and check the prefix in `topics`"
            )
        if error is not None and (denial(error) is not None or _is_final(error)):
            return failure(f"Kafka at {self.bootstrap_servers} refuses", error)
        reason = "" if error is None else f" ({in_words(error)})"
        return BrokerError(
            f"Kafka at {self.bootstrap_servers} does not answer{reason}: check that it runs and that "
            "bootstrap_servers and kafka_options name it rightly"
        )


def _is_final(error: BaseException) -> bool:
    return isinstance(error, KafkaError) and not error.retriable


async def stop_producer(producer: Any, *, flush_seconds: float = STOP_SECONDS) -> None:
    """Flush for at most `flush_seconds`, then close."""
    if await _ends_within(flush_seconds, producer.flush()):
        await _ends_within(STOP_SECONDS, producer.stop())
    else:
        await _abandon(producer)


async def stop_consumer(consumer: Any) -> None:
    """Close, within a time limit."""
    await _ends_within(STOP_SECONDS, consumer.stop())


async def _abandon(producer: Any) -> None:
    """Close without `stop()`, which waits without end for records that cannot be sent."""
    producer._closed = True
    await _ends_within(STOP_SECONDS, producer.client.close())
    sender, until = producer._sender.sender_task, asyncio.get_running_loop().time() + STOP_SECONDS
    if sender is None:
        return
    sender.cancel()
    while not sender.done() and asyncio.get_running_loop().time() < until:
        await asyncio.wait([sender], timeout=_ABANDON_STEP_SECONDS)
        # Records in flight wait for metadata of the cluster, which a closed client never receives.
        news = producer.client._md_update_fut
        if news is not None and not news.done():
            news.set_result(False)


async def _ends_within(seconds: float, ending: Coroutine[Any, Any, None]) -> bool:
    """Waits for an operation to end; returns whether it did in time, with or without an error."""
    ended = await end_within(ending, seconds)
    if ended.failure is not None:
        log.warning("client.stop-failed: %r", ended.failure)
    return ended.in_time


def is_dead(producer: Any) -> bool:
    """Whether the producer's background task has ended: nothing is ever sent again."""
    sender = producer._sender.sender_task
    return sender is None or bool(sender.done())
