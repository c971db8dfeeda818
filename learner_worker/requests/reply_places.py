"""Knows which reply topics and partitions exist: replies are written to no others."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from learner_worker.errors import RefusedReplyError
from learner_worker.kafka.partitioner import partition_of_key
from learner_worker.kafka.records import Outgoing
from learner_worker.requests.clock import Clock

_METADATA_SECONDS = 5.0
"""Half of a request's default time to live: a later answer would make the reply too late."""
_LISTED_SECONDS = 5.0
"""Age limit of the list of topics: bounds how often requests for a missing topic make Kafka list all."""


class ReplyPlaces:
    """A cache of the reply topics and partitions that exist.

    Args:
        producer: knows the partitions of a topic that exists.
        list_topics: lists all topics; asking Kafka for a missing one by name might create it.
        clock: measures the age of the list of topics.
    """

    def __init__(
        self, producer: AIOKafkaProducer, list_topics: Callable[[], Awaitable[set[str]]], clock: Clock
    ) -> None:
        self._producer = producer
        self._list_topics = list_topics
        self._clock = clock
        self._listing = asyncio.Lock()
        self._topic_names: set[str] = set()
        self._listed_at = float("-inf")
        self._partitions: dict[str, tuple[int, ...]] = {}

    def knows(self, topic: str, partition: int | None) -> bool:
        """Whether an address is known to exist, without asking Kafka."""
        partitions = self._partitions.get(topic, ())
        return bool(partitions) and (partition is None or partition in partitions)

    async def look_up(self, topic: str, partition: int | None) -> None:
        """Asks Kafka whether an address exists.

        Raises:
            RefusedReplyError: it does not exist, or its metadata cannot be read.
        """
        self._partitions[topic] = await self._existing(topic)
        if partition is not None and partition not in self._partitions[topic]:
            raise RefusedReplyError("reply-partition", f"{topic} has no partition {partition}")

    def forget(self, topic: str) -> None:
        """Forgets a topic, so that Kafka is asked again before its next reply: it may have been deleted."""
        self._partitions.pop(topic, None)

    def partition_of(self, record: Outgoing) -> int:
        """The partition of a record to a known topic: the one it names, else its key's, else a random one."""
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
            if topic not in self._topic_names and self._clock.monotonic() - self._listed_at > _LISTED_SECONDS:
                self._topic_names = await self._list_topics()
                self._listed_at = self._clock.monotonic()
            return topic in self._topic_names
