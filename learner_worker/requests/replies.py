"""Replies on their way: batched by partition, and never to a topic or partition that does not exist."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from learner_worker.errors import RefusedReplyError
from learner_worker.kafka.partitioner import partition_of_key
from learner_worker.kafka.records import Outgoing

_METADATA_SECONDS = 5.0
_LISTED_SECONDS = 5.0
_MAX_UNSENT = 5_000
_log = structlog.get_logger("learner_worker.answering")

Place = tuple[str, int]
Done = Callable[[], None]
"""Called when Kafka has the reply, or will never have it."""


@dataclass(slots=True)
class _Batch:
    """Records of one partition, and whom to tell of their end."""

    builder: Any
    dones: list[Done] = field(default_factory=list)


class Replies:
    """Collects replies and hands each partition's to Kafka in batches, one after the other.

    While a batch is under way the next one fills: the busier, the larger.

    Args:
        list_topics: every topic there is; naming a missing one to Kafka might create it.
    """

    def __init__(self, producer: AIOKafkaProducer, list_topics: Callable[[], Awaitable[set[str]]]) -> None:
        self._producer = producer
        self._list_topics = list_topics
        self._listing = asyncio.Lock()
        self._topic_names: set[str] = set()
        self._listed_at = -_LISTED_SECONDS
        self._partitions: dict[str, tuple[int, ...]] = {}
        self._waiting: dict[Place, list[_Batch]] = {}
        self._senders: dict[Place, asyncio.Task[None]] = {}
        self._unsent = 0
        self._moved_at = time.monotonic()

    @property
    def standing_seconds(self) -> float:
        """For how long no batch has come to an end although some are under way."""
        return time.monotonic() - self._moved_at if self._senders else 0.0

    @property
    def is_full(self) -> bool:
        """Whether Kafka is so far behind that no more replies should be made."""
        return self._unsent >= _MAX_UNSENT

    def knows(self, topic: str, partition: int | None) -> bool:
        """Whether an address is known to exist, without asking Kafka."""
        partitions = self._partitions.get(topic, ())
        return bool(partitions) and (partition is None or partition in partitions)

    async def look_up(self, topic: str, partition: int | None) -> None:
        """Asks Kafka whether an address exists.

        Raises:
            RefusedReplyError: it does not, or cannot be read.
        """
        self._partitions[topic] = await self._existing(topic)
        if partition is not None and partition not in self._partitions[topic]:
            raise RefusedReplyError("reply-partition", f"{topic} has no partition {partition}")

    def add(self, record: Outgoing, done: Done) -> None:
        """Adds a reply to a known address; it leaves with the next `send`."""
        place = (record.topic, self._partition(record))
        batches = self._waiting.setdefault(place, [])
        if not batches or not _append(batches[-1], record):
            batches.append(_Batch(self._producer.create_batch()))
            _append(batches[-1], record)
        batches[-1].dones.append(done)
        self._unsent += 1

    def send(self) -> None:
        """Starts sending what was added."""
        if not self._senders:
            self._moved_at = time.monotonic()
        for place in self._waiting:
            if place not in self._senders:
                task = asyncio.create_task(self._send_all(place), name="send-replies")
                self._senders[place] = task

    async def room(self) -> None:
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

    async def _send(self, place: Place, batch: _Batch) -> None:
        topic, partition = place
        try:
            sent = await self._producer.send_batch(batch.builder, topic, partition=partition)
            await sent
        except (KafkaError, TimeoutError) as error:
            # Nobody waits for them any more by the time this gives up; the lane goes on.
            _log.warning("replies.not_sent", topic=topic, replies=len(batch.dones), error=repr(error))
            self._partitions.pop(topic, None)  # it may have been deleted
        finally:
            self._moved_at = time.monotonic()
            self._unsent -= len(batch.dones)
            for done in batch.dones:
                done()

    def _partition(self, record: Outgoing) -> int:
        if record.partition is not None:
            return record.partition
        partitions = self._partitions[record.topic]
        if record.key is None:
            return random.choice(partitions)  # noqa: S311 (to spread, not to hide)
        return partitions[partition_of_key(record.key, len(partitions))]

    async def _existing(self, topic: str) -> tuple[int, ...]:
        try:
            async with asyncio.timeout(_METADATA_SECONDS):
                if await self._exists(topic):
                    return tuple(sorted(await self._producer.partitions_for(topic)))
        except (KafkaError, TimeoutError) as error:
            raise RefusedReplyError(
                "reply-topic", f"reply topic {topic!r} cannot be read: {error!r}"
            ) from error
        raise RefusedReplyError("reply-topic", f"reply topic {topic!r} does not exist")

    async def _exists(self, topic: str) -> bool:
        async with self._listing:
            if topic not in self._topic_names and time.monotonic() - self._listed_at > _LISTED_SECONDS:
                self._topic_names = await self._list_topics()
                self._listed_at = time.monotonic()
            return topic in self._topic_names


def _append(batch: _Batch, record: Outgoing) -> bool:
    """Adds a record if the batch has room; an empty one takes any."""
    added = batch.builder.append(
        key=record.key, value=record.value, timestamp=None, headers=list(record.headers)
    )
    return added is not None
