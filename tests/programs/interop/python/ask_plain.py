"""Asks in the plain dialect with two bare clients: `librdkafka` (confluent-kafka) or `aiokafka`."""

# mypy: disable-error-code="import-not-found"
# (confluent-kafka is installed in a venv of its own, beside this file)

import asyncio
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol

import confluent_kafka
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from reporting import Plan, Question, read_plan, tell

PATIENCE_SECONDS = 15.0
SILENCE_SECONDS = 4.0
OWN_PARTITION = 2


@dataclass(frozen=True, slots=True)
class Record:
    """A record of a reply topic, as either client gives it."""

    value: bytes
    headers: Mapping[str, bytes]
    partition: int


@dataclass(frozen=True, slots=True)
class Way:
    """A way to ask: by which key, and to where."""

    name: str
    key: bytes | None
    headers: Mapping[str, bytes]


class Client(Protocol):
    """A producer of requests, and a consumer of all reply topics."""

    async def send(self, topic: str, key: bytes | None, value: bytes, headers: Mapping[str, bytes]) -> None:
        """Put a request."""

    async def next_record(self, seconds: float) -> Record | None:
        """The next record of a reply topic, or None."""


class Librdkafka:
    """confluent-kafka with its defaults: CRC32 of the key, any partition without one."""

    def __init__(self, plan: Plan) -> None:
        self._producer = confluent_kafka.Producer({"bootstrap.servers": plan.bootstrap_servers})
        self._consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": plan.bootstrap_servers, "group.id": "librdkafka-interop"}
        )
        topics = _reply_topics(plan)
        known = self._consumer.list_topics(timeout=PATIENCE_SECONDS).topics
        self._consumer.assign(
            [
                confluent_kafka.TopicPartition(topic, number, self._end(topic, number))
                for topic in topics
                for number in known[topic].partitions
            ]
        )

    def _end(self, topic: str, partition: int) -> int:
        where = confluent_kafka.TopicPartition(topic, partition)
        return int(self._consumer.get_watermark_offsets(where, timeout=PATIENCE_SECONDS)[1])

    async def send(self, topic: str, key: bytes | None, value: bytes, headers: Mapping[str, bytes]) -> None:
        """Put a request."""
        self._producer.produce(topic, value, key=key, headers=list(headers.items()))
        self._producer.flush(PATIENCE_SECONDS)

    async def next_record(self, seconds: float) -> Record | None:
        """The next record of a reply topic, or None."""
        message = self._consumer.poll(seconds)
        if message is None:
            return None
        if message.error():
            raise RuntimeError(message.error())
        return Record(message.value(), dict(message.headers() or ()), message.partition())


class Aiokafka:
    """aiokafka with its defaults: murmur2 of the key, any partition without one."""

    def __init__(self, producer: Any, consumer: Any) -> None:
        self._producer = producer
        self._consumer = consumer

    async def send(self, topic: str, key: bytes | None, value: bytes, headers: Mapping[str, bytes]) -> None:
        """Put a request."""
        await self._producer.send_and_wait(topic, value, key=key, headers=list(headers.items()))

    async def next_record(self, seconds: float) -> Record | None:
        """The next record of a reply topic, or None."""
        try:
            record = await asyncio.wait_for(self._consumer.getone(), seconds)
        except TimeoutError:
            return None
        return Record(record.value, dict(record.headers), record.partition)


def _reply_topics(plan: Plan) -> tuple[str, ...]:
    return plan.reply_topic, plan.default_reply_topic, plan.unlisted_topic


async def converse(plan: Plan, client: Client) -> None:
    """Every way the plain dialect has."""
    own = {"reply_to": plan.reply_topic.encode()}
    for question in plan.asks:
        key = question.request["agent_id"].encode()
        await _ask(client, plan, question, Way("keyed", key, own))
        await _ask(client, plan, question, Way("no key", None, own))
        there = Way(f"partition {OWN_PARTITION}", key, {**own, "reply_partition": b"%d" % OWN_PARTITION})
        reply = await _ask(client, plan, question, there)
        tell(check="the reply is on the partition that was asked for", holds=reply.partition == OWN_PARTITION)
    await _ask_without_headers(client, plan)
    await _ask_wrongly(client, plan, own)
    await _ask_for_an_unlisted_topic(client, plan)


async def _ask(client: Client, plan: Plan, question: Question, way: Way) -> Record:
    correlation_id = uuid.uuid4().bytes
    headers = {**way.headers, "correlation_id": correlation_id}
    await client.send(plan.requests, way.key, question.body, headers)
    reply = await _reply_with(client, correlation_id)
    tell(way=way.name, ask=question.name, reply=reply.value.decode())
    return reply


async def _reply_with(client: Client, correlation_id: bytes) -> Record:
    until = time.monotonic() + PATIENCE_SECONDS
    while (left := until - time.monotonic()) > 0:
        reply = await client.next_record(left)
        if reply is not None and reply.headers.get("correlation_id") == correlation_id:
            return reply
    raise TimeoutError(f"no reply within {PATIENCE_SECONDS} s")


async def _ask_without_headers(client: Client, plan: Plan) -> None:
    question = plan.asks[0]
    await client.send(plan.requests, None, question.body, {})
    reply = await client.next_record(PATIENCE_SECONDS)
    tell(way="no headers", ask=question.name, reply=None if reply is None else reply.value.decode())


async def _ask_wrongly(client: Client, plan: Plan, headers: Mapping[str, bytes]) -> None:
    correlation_id = b"wrong"
    await client.send(plan.requests, None, plan.wrong.body, {**headers, "correlation_id": correlation_id})
    reply = await _reply_with(client, correlation_id)
    code = reply.headers["learner-error"].decode()
    tell(
        way="no key", ask=plan.wrong.name, error=f"header learner-error: {code}, value {reply.value.decode()}"
    )


async def _ask_for_an_unlisted_topic(client: Client, plan: Plan) -> None:
    headers = {"reply_to": plan.unlisted_topic.encode(), "correlation_id": b"refused"}
    await client.send(plan.requests, None, plan.refused.body, headers)
    reply = await client.next_record(SILENCE_SECONDS)
    if reply is None:
        tell(way="unlisted", ask=plan.refused.name, silence=f"nothing within {SILENCE_SECONDS:g} s")
    else:
        tell(way="unlisted", ask=plan.refused.name, reply=reply.value.decode())


async def by_librdkafka(plan: Plan) -> None:
    """The whole conversation by confluent-kafka."""
    tell(version=f"{version('confluent-kafka')} (librdkafka {confluent_kafka.libversion()[0]})")
    await converse(plan, Librdkafka(plan))


async def by_aiokafka(plan: Plan) -> None:
    """The whole conversation by aiokafka."""
    tell(version=version("aiokafka"))
    async with (
        AIOKafkaProducer(bootstrap_servers=plan.bootstrap_servers) as producer,
        AIOKafkaConsumer(bootstrap_servers=plan.bootstrap_servers) as consumer,
    ):
        partitions = [
            TopicPartition(topic, number)
            for topic in _reply_topics(plan)
            for number in await producer.partitions_for(topic)
        ]
        consumer.assign(partitions)
        await consumer.seek_to_end()
        for partition in partitions:
            await consumer.position(partition)
        await converse(plan, Aiokafka(producer, consumer))


if __name__ == "__main__":
    asyncio.run({"librdkafka": by_librdkafka, "aiokafka": by_aiokafka}[sys.argv[2]](read_plan()))
