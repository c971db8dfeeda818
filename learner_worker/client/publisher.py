"""EventPublisher: publishes bids, closes and results."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from learner_worker.client.connection import ClientConnection, log
from learner_worker.client.messages import event, wire_time
from learner_worker.client.producer import KeyedRecord, PersistentProducer
from learner_worker.contract.encode import encode_message
from learner_worker.contract.events import AuctionClosed, BidPlaced, Event, TaskFinished
from learner_worker.contract.topics import TopicName, Topics
from learner_worker.errors import BrokerError
from learner_worker.lifecycle import KAFKA_FAILURES

_AGAIN = (
    "The event may still have arrived: publish it again with the same time, duplicates do no harm. It said: "
)


class EventPublisher:
    """Publishes the events of auctions to the learner. One publisher serves any number of concurrent tasks.

        async with EventPublisher("kafka:9092") as events:
            await events.bid_placed("task-1", "agent-7", bid_sats=900, description="parse invoices")
            await events.auction_closed("task-1", winner_agent_id="agent-7", winning_bid_sats=900)
            await events.task_finished("task-1", "agent-7", succeeded=True)

    Each method returns when all in-sync replicas of Kafka have acknowledged the event. With `wait=False` it
    returns once the event is passed to the producer, with a future of the acknowledgement; `flush()` waits
    for all of them, and leaving the context flushes.

    Times are aware datetimes; the default is now. An event that is published again must carry its first time,
    so that duplicates count once.

    Args:
        bootstrap_servers: Kafka, as `host:port`, several separated by commas.
        topics: The topics' names; `Topics(prefix="...")` for another prefix.
        timeout_seconds: Time limit for an event, or for the start, before BrokerError is raised. The default
            is long enough for a partition to change its leader.
        kafka_options: Passed to aiokafka's producer, for example `{"security_protocol": "SSL",
            "ssl_context": context, "compression_type": "zstd"}`; they override the publisher's own settings.
        client_id: The client id that Kafka's logs show.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        topics: Topics = Topics(),  # noqa: B008 (frozen)
        timeout_seconds: float = 10.0,
        kafka_options: Mapping[str, Any] | None = None,
        client_id: str = "learner-events",
    ) -> None:
        self._connection = ClientConnection(bootstrap_servers, client_id, dict(kafka_options or {}))
        self._topics = topics.named()
        self._timeout_seconds = timeout_seconds
        self._producer = PersistentProducer(self._connection)
        self._unacknowledged: set[asyncio.Task[None]] = set()
        self._not_acknowledged: BaseException | None = None

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            BrokerError: Kafka was not reached in time; the message says what to do.
            ConfigurationError: `kafka_options` can never work.
        """
        self._producer.open()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._producer.started()
        except BaseException as error:
            await self._producer.close()
            if isinstance(error, TimeoutError):
                raise self._producer.not_started() from error
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Flush and close.

        Raises:
            BrokerError: an event published with `wait=False` was not acknowledged.
        """
        try:
            await self.flush()
        except BrokerError as unsent:
            if error is None:
                raise
            log.error("events.not-acknowledged: %s", unsent)
        finally:
            await self._producer.close()

    async def bid_placed(
        self,
        task_id: str,
        agent_id: str,
        *,
        bid_sats: int,
        description: str,
        placed_at: datetime | None = None,
        wait: bool = True,
    ) -> "asyncio.Future[None]":
        """Publish that an agent bid for a task; `description` is the task's text as the agent saw it.

        Returns:
            The acknowledgement: done with `wait`, otherwise a future to await later.

        Raises:
            InvalidEventError: the event breaks the contract; nothing was sent.
            BrokerError: Kafka did not accept or acknowledge it in time; the message says what to do.
        """
        placed = event(
            BidPlaced,
            task_id=task_id,
            agent_id=agent_id,
            bid_sats=bid_sats,
            description=description,
            placed_at=wire_time("placed_at", placed_at),
        )
        return await self._publish(self._topics.bid_placed, placed, wait=wait)

    async def auction_closed(
        self,
        task_id: str,
        *,
        winner_agent_id: str | None,
        winning_bid_sats: int | None = None,
        closed_at: datetime | None = None,
        description: str | None = None,
        wait: bool = True,
    ) -> "asyncio.Future[None]":
        """Publish that an auction ended; `winner_agent_id` is None if nobody won. A later close corrects it.

        Returns and raises as `bid_placed`.
        """
        closed = event(
            AuctionClosed,
            task_id=task_id,
            winner_agent_id=winner_agent_id,
            winning_bid_sats=winning_bid_sats,
            closed_at=wire_time("closed_at", closed_at),
            **({} if description is None else {"description": description}),
        )
        return await self._publish(self._topics.auction_closed, closed, wait=wait)

    async def task_finished(
        self,
        task_id: str,
        agent_id: str,
        *,
        succeeded: bool,
        finished_at: datetime | None = None,
        wait: bool = True,
    ) -> "asyncio.Future[None]":
        """Publish that the winner completed or failed a task. The latest `finished_at` counts.

        Returns and raises as `bid_placed`.
        """
        finished = event(
            TaskFinished,
            task_id=task_id,
            agent_id=agent_id,
            succeeded=succeeded,
            finished_at=wire_time("finished_at", finished_at),
        )
        return await self._publish(self._topics.task_finished, finished, wait=wait)

    async def flush(self) -> None:
        """Wait until every event published so far is acknowledged.

        Raises:
            BrokerError: an event published with `wait=False` since the last flush was not acknowledged.
        """
        if self._unacknowledged:
            await asyncio.wait(self._unacknowledged)
        error, self._not_acknowledged = self._not_acknowledged, None
        if error is not None:
            raise error

    async def _publish(self, topic: TopicName, message: Event, *, wait: bool) -> "asyncio.Future[None]":
        until = asyncio.get_running_loop().time() + self._timeout_seconds
        record = KeyedRecord(topic, message.task_id.encode(), encode_message(message))
        producer, sent = await self._send(record, until)
        acknowledgement = asyncio.create_task(
            self._acknowledge(producer, sent, record, until), name="learner-events-acknowledgement"
        )
        if wait:
            await acknowledgement
        else:
            self._unacknowledged.add(acknowledgement)
            acknowledgement.add_done_callback(self._settle)
        return acknowledgement

    async def _send(self, record: KeyedRecord, until: float) -> tuple[Any, Any]:
        """Pass the event to the producer; returns the producer and the future of the acknowledgement."""
        producer = None
        try:
            async with asyncio.timeout_at(until):
                producer = await self._producer.started()
                return producer, await producer.send(record.topic, record.value, key=record.key)
        except KAFKA_FAILURES as error:
            self._producer.replace_if_stuck(producer, error, until - self._timeout_seconds)
            reason = self._producer.not_started() if producer is None else self._connection.failure(error)
            raise BrokerError(f"The event was not sent. {reason}") from error

    async def _acknowledge(self, producer: Any, sent: Any, record: KeyedRecord, until: float) -> None:
        try:
            async with asyncio.timeout_at(until):
                await self._producer.until_acknowledged(producer, sent, record)
        except KAFKA_FAILURES as error:
            self._producer.replace_if_stuck(producer, error, until - self._timeout_seconds)
            raise BrokerError(
                f"{self._connection.failure(error)}. {_AGAIN}{record.value.decode()}"
            ) from error

    def _settle(self, acknowledgement: asyncio.Task[None]) -> None:
        self._unacknowledged.discard(acknowledgement)
        if not acknowledgement.cancelled():
            failure = acknowledgement.exception()  # looked at, or asyncio logs every one after the first
            self._not_acknowledged = self._not_acknowledged or failure
