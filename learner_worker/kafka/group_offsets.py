"""Commits offsets for a consumer group that has no members; Kafka refuses it for one that has."""

import asyncio
from collections.abc import Mapping

from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata

from learner_worker.kafka.admin import Committed
from learner_worker.kafka.clients import request_consumer, running
from learner_worker.kafka.connection import Connection

_SECONDS = 30.0  # as long as a worker's client is given to start; aiokafka repeats a commit without a limit


async def commit_for_group(
    connection: Connection, group_id: str, offsets: Mapping[TopicPartition, Committed]
) -> None:
    """Commits offsets with their metadata.

    Raises:
        BrokerError: Kafka cannot be reached.
        KafkaError, TimeoutError: it did not take them; the group may have members.
    """
    if not offsets:
        return
    async with running(request_consumer(connection, group_id=group_id), _SECONDS) as consumer:
        consumer.assign(list(offsets))
        consumer.pause(*offsets)  # nothing is read
        async with asyncio.timeout(_SECONDS):
            await consumer.commit(
                {place: OffsetAndMetadata(one.offset, one.metadata) for place, one in offsets.items()}
            )
