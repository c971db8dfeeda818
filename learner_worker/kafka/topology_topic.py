"""The topic `learner-topology`: its standing record read, a new one appended."""

import asyncio
import uuid

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from learner_worker.contract.topics import TopicName
from learner_worker.contract.topology import Topology, decode_topology, encode_topology, standing
from learner_worker.errors import RecordError
from learner_worker.kafka.batching import send_single
from learner_worker.kafka.clients import bulk_producer, running
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.partition_reader import PartitionReader
from learner_worker.kafka.records import Outgoing, Record
from learner_worker.refusals.denials import failure

_PARTITION = 0  # it has one
_WRITE_SECONDS = 30.0  # as long as a producer waits for Kafka's acknowledgement
_log = structlog.get_logger("learner_worker.kafka")


async def read_standing(reader: PartitionReader, topic: TopicName) -> Topology | None:
    """The topology that holds now; None if there is no record of one.

    Everything is read each time: a topic created anew may end where the old one did.

    Raises:
        BrokerError: Kafka does not answer.
        UpgradeRequiredError: a newer learner wrote a record.
    """
    partition = TopicPartition(topic, _PARTITION)
    found: list[Topology] = []
    async for records in reader.records(partition, await reader.range_of(partition)):
        found += [topology for record in records if (topology := _read(record)) is not None]
    reader.rest()
    return standing(found)


def _read(record: Record) -> Topology | None:
    """What a record says; None for one that no learner wrote."""
    try:
        return decode_topology(record.value)
    except RecordError as error:
        _log.warning("topology.record_ignored", offset=record.offset, error=str(error))
        return None


async def append(connection: Connection, topic: TopicName, topology: Topology) -> None:
    """Writes a record. Whether it stands is known when the topic has been read after it.

    Raises:
        BrokerError: Kafka did not take it.
    """
    key, value = encode_topology(topology, uuid.uuid4().hex)
    try:
        async with (
            running(bulk_producer(connection), _WRITE_SECONDS) as producer,
            asyncio.timeout(_WRITE_SECONDS),
        ):
            await send_single(producer, Outgoing(topic, _PARTITION, key, value))
    except (KafkaError, TimeoutError) as error:
        raise failure(f"Kafka did not accept the record of {topic}", error, "try again") from error
