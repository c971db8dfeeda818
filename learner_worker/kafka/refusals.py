"""Records that Kafka will never take, told apart from those that it may take later.

A batch that is refused is split until the single record is found, so that one record never keeps others back.
What is lost and what is kept then, is in docs/operating.md.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidTimestampError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)
from aiokafka.partitioner import DefaultPartitioner
from prometheus_client import Counter

from learner_worker.contract.topics import TopicNames
from learner_worker.errors import RecordError
from learner_worker.kafka.records import Outgoing, Unreadable, dead_letter, shortened_dead_letter

TOO_LARGE: Final = (MessageSizeTooLargeError, RecordListTooLargeError)
"""Refusals that a batch may get although each of its records would be taken."""
OF_RECORD: Final = (*TOO_LARGE, InvalidTimestampError, PolicyViolationError)
"""Refusals of one record: others of the same topic are taken."""
OF_TOPIC: Final = (ClusterAuthorizationFailedError, InvalidTopicError, TopicAuthorizationFailedError)
"""Refusals of whatever is written to a topic, until an operator changes something."""
_SHOWN_BYTES: Final = 200
"""Bytes of a key in the log: enough to find its task and agent."""
_log = structlog.get_logger("learner_worker.stream")


class Refusals:
    """Decides what becomes of a record that Kafka will never take, counts it and names it in the log.

    Args:
        refused: counts records, by topic.
    """

    def __init__(self, topics: TopicNames, refused: Counter) -> None:
        self._topics = topics
        self._refused = refused
        self._needed = frozenset({topics.outcomes, topics.rerouted})

    def is_final(self, topic: str, error: BaseException | None) -> bool:
        """Whether the records behind an error are given up; otherwise they are sent again later.

        Nothing goes on without the changelog: what a missing right keeps out of it is not given up.
        """
        return isinstance(error, OF_RECORD) or (isinstance(error, OF_TOPIC) and topic not in self._needed)

    def give_up(self, record: Outgoing, error: KafkaError) -> Outgoing | None:
        """Counts and logs a refused record; returns the record that is sent instead, if any.

        A fact becomes a dead letter, a dead letter a shorter one. Anything else is lost: metrics records are
        written again with the agent's next change.
        """
        instead = self._instead(record, error)
        size = len(record.key or b"") + len(record.value or b"")
        self._refused.labels(record.topic).inc()
        _log.error(
            "record.refused",
            topic=record.topic,
            partition=record.partition,
            key=(record.key or b"")[:_SHOWN_BYTES].decode(errors="replace"),
            bytes=size,
            reason=type(error).__name__,
            kept_as=None if instead is None else instead.topic,
        )
        return instead

    def _instead(self, record: Outgoing, error: KafkaError) -> Outgoing | None:
        if not isinstance(error, OF_RECORD):
            return None
        if record.topic == self._topics.outcomes and record.value is not None:
            refused = RecordError(
                "refused",
                f"Kafka refuses this fact ({type(error).__name__}): raise max.message.bytes of "
                f"{record.topic}, then replay it",
            )
            original = Unreadable(record.topic, record.partition or 0, -1, -1, record.key, record.value)
            return dead_letter(original, self._topics.dead_letters, refused)
        return shortened_dead_letter(record) if record.topic == self._topics.dead_letters else None


async def send_alone(producer: AIOKafkaProducer, record: Outgoing) -> None:
    """Sends a record as a batch of its own: others in its batch cannot make it too large.

    Raises:
        KafkaError: Kafka does not take it.
    """
    if record.partition is None:  # as the producer itself chooses one
        partitions = sorted(await producer.partitions_for(record.topic))
        record = record._replace(partition=DefaultPartitioner()(record.key, partitions, partitions))
    await (await _send_batch(producer, [record]))


async def send_in_parts(
    producer: AIOKafkaProducer, records: Sequence[Outgoing], error: KafkaError
) -> AsyncIterator[tuple[Outgoing, KafkaError]]:
    """Sends a refused batch of one partition again in ever smaller parts; yields the records refused alone.

    Raises:
        KafkaError: another error than a refusal.
    """
    if len(records) == 1 or isinstance(error, OF_TOPIC):
        for record in records:
            yield record, error
        return
    middle = len(records) // 2
    for part in (records[:middle], records[middle:]):
        try:
            await (await _send_batch(producer, part))
        except OF_RECORD + OF_TOPIC as refusal:
            async for refused in send_in_parts(producer, part, refusal):
                yield refused


async def _send_batch(producer: AIOKafkaProducer, records: Sequence[Outgoing]) -> Any:
    batch = producer.create_batch()
    for record in records:
        batch.append(
            key=record.key, value=record.value, timestamp=record.timestamp_ms, headers=list(record.headers)
        )
    return await producer.send_batch(batch, records[0].topic, partition=records[0].partition)
