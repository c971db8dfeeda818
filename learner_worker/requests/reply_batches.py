"""Replies on their way to Kafka: a partition's leave in batches, one after the other."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from prometheus_client import Histogram

from learner_worker.kafka.records import Outgoing
from learner_worker.requests.clock import Clock
from learner_worker.requests.reply_places import ReplyPlaces
from learner_worker.requests.request import ReceivedRequest

_MAX_UNSENT = 5_000
"""More than twice what may be queued: only a Kafka that does not take replies stops the answers."""
_log = structlog.get_logger("learner_worker.requests")

Place = tuple[str, int]
"""A topic and a partition."""


@dataclass(slots=True)
class ReplyBatch:
    """Records of one partition, and the requests that they reply to."""

    builder: Any
    requests: list[ReceivedRequest] = field(default_factory=list)

    def append(self, record: Outgoing) -> bool:
        """Adds a record if the batch has room; an empty one takes any."""
        added = self.builder.append(
            key=record.key, value=record.value, timestamp=None, headers=list(record.headers)
        )
        return added is not None


class ReplyBatches:
    """Collects replies and hands each partition's to Kafka in batches.

    While a batch is under way the next one fills: the busier, the larger.

    Args:
        producer: writes the batches.
        places: says which partition a record goes to.
        answer_seconds: what each request took, from its record time to Kafka's having its reply.
        clock: tells when that is.
    """

    def __init__(
        self, producer: AIOKafkaProducer, places: ReplyPlaces, answer_seconds: Histogram, clock: Clock
    ) -> None:
        self._producer = producer
        self._places = places
        self._answer_seconds = answer_seconds
        self._clock = clock
        self._waiting: dict[Place, list[ReplyBatch]] = {}
        self._senders: dict[Place, asyncio.Task[None]] = {}
        self._unsent = 0
        self._moved_at = clock.monotonic()

    @property
    def standing_seconds(self) -> float:
        """For how long no batch has come to an end although some are under way."""
        return self._clock.monotonic() - self._moved_at if self._senders else 0.0

    @property
    def is_full(self) -> bool:
        """Whether Kafka is so far behind that no more replies should be made."""
        return self._unsent >= _MAX_UNSENT

    def add(self, request: ReceivedRequest, record: Outgoing) -> None:
        """Adds a reply to a known place; it leaves with the next `send`."""
        place = (record.topic, self._places.partition_of(record))
        batches = self._waiting.setdefault(place, [])
        if not batches or not batches[-1].append(record):
            batches.append(ReplyBatch(self._producer.create_batch()))
            batches[-1].append(record)
        batches[-1].requests.append(request)
        self._unsent += 1

    def send(self) -> None:
        """Starts sending what was added."""
        if not self._senders:
            self._moved_at = self._clock.monotonic()
        for place in self._waiting:
            if place not in self._senders:
                task = asyncio.create_task(self._send_all(place), name="send-replies")
                self._senders[place] = task

    async def wait_for_room(self) -> None:
        """Waits until some of the replies under way have reached Kafka, or will never."""
        if self._senders:
            await asyncio.wait(self._senders.values(), return_when=asyncio.FIRST_COMPLETED)

    async def finish(self, seconds: float) -> None:
        """Sends everything and waits for Kafka, but not longer than that."""
        self.send()
        if self._senders:
            await asyncio.wait(self._senders.values(), timeout=seconds)

    async def _send_all(self, place: Place) -> None:
        try:
            while batches := self._waiting.get(place):
                await self._send(place, batches.pop(0))
        finally:
            del self._senders[place]
            if not self._waiting.get(place):
                self._waiting.pop(place, None)

    async def _send(self, place: Place, batch: ReplyBatch) -> None:
        topic, partition = place
        try:
            sent = await self._producer.send_batch(batch.builder, topic, partition=partition)
            await sent
        except (KafkaError, TimeoutError) as error:
            # Nobody waits for them any more by the time this gives up: their requests are finished, too.
            _log.warning("replies.not_sent", topic=topic, replies=len(batch.requests), error=repr(error))
            self._places.forget(topic)
        finally:
            self._moved_at = self._clock.monotonic()
            self._unsent -= len(batch.requests)
            self._finish(batch)

    def _finish(self, batch: ReplyBatch) -> None:
        now_ms = self._clock.now() / 1000
        for request in batch.requests:
            self._answer_seconds.observe(max(0.0, now_ms - request.record.timestamp) / 1000)
            request.finish()
