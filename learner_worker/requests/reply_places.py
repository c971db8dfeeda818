"""Which reply topics and partitions exist: a reply to any other is never written."""

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
"""Half of a request's usual time to live: Kafka answers within it, or the reply would come too late."""
_LISTED_SECONDS = 5.0
"""How old a list of topics may be: not every request for a missing topic makes Kafka list them all."""


class ReplyPlaces:
    """The topics and partitions that Kafka was asked for.

    Args:
        producer: knows the partitions of a topic that exists.
        list_topics: every topic there is; naming a missing one to Kafka might create it.
        clock: tells how old the list of topics is.
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
            RefusedReplyError: it does not, or cannot be read.
        """
        self._partitions[topic] = await self._existing(topic)
        if partition is not None and partition not in self._partitions[topic]:
            raise RefusedReplyError("reply-partition", f"{topic} has no partition {partition}")

    def forget(self, topic: str) -> None:
        """Asks again before the next reply to a topic: it may have been deleted."""
        self._partitions.pop(topic, None)

    def partition_of(self, record: Outgoing) -> int:
        """The partition of a record to a known topic: the one it names, its key's, or any."""
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
