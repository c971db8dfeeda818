"""Tells what Kafka will never take from what it may take later, and splits a batch that is refused.

A batch is split until the single record is found, so that one record never keeps others back.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

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

from learner_worker.kafka.records import Outgoing

TOO_LARGE: Final = (MessageSizeTooLargeError, RecordListTooLargeError)
"""Refusals that a batch may get although each of its records would be taken."""
OF_RECORD: Final = (*TOO_LARGE, InvalidTimestampError, PolicyViolationError)
"""Refusals of one record: others of the same topic are taken."""
OF_TOPIC: Final = (ClusterAuthorizationFailedError, InvalidTopicError, TopicAuthorizationFailedError)
"""Refusals of whatever is written to a topic, until an operator changes something."""


async def send_alone(producer: AIOKafkaProducer, record: Outgoing) -> Any:
    """Sends a record as a batch of its own: others in its batch cannot make it too large.

    Returns:
        The record's metadata: its partition, offset and time.

    Raises:
        KafkaError: Kafka does not take it.
    """
    if record.partition is None:  # as the producer itself chooses one
        partitions = sorted(await producer.partitions_for(record.topic))
        record = record._replace(partition=DefaultPartitioner()(record.key, partitions, partitions))
    return await (await _send_batch(producer, [record]))


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
