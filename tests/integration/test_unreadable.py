"""Records that the Kafka client cannot decode: stepped over and said, never a standstill."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c

from learner_worker.brokers import Broker
from learner_worker.client import LearnerClient
from learner_worker.contract.topics import Topics
from learner_worker.stream.partitions import partitioner
from tests.integration.test_whole_way import metrics_equal_the_model
from tests.model import Event
from tests.swarm import swarm_history
from tests.workers import (
    WorkerProcess,
    create_topics,
    publish,
    read_topic,
    running_worker,
    topic_of,
    until,
)

SHARDS = 4
_CRC_AT = 17
_ATTRIBUTES_AT = 21


def broken(batch: Any) -> Any:
    """A batch whose header name POISON is no UTF-8 any more, with a right checksum."""
    content = bytearray(batch._build())
    at = content.index(b"POISON")
    content[at : at + 6] = b"\xff\xfe\xfd\xfc\xfb\xfa"
    content[_CRC_AT:_ATTRIBUTES_AT] = calc_crc32c(bytes(content[_ATTRIBUTES_AT:])).to_bytes(4, "big")
    batch._buffer = content
    return batch


async def publish_with_poison(
    servers: str, topic: str, partition: int, before: Sequence[bytes], poisoned: int
) -> None:
    """One batch of `before`, then so many records whose headers cannot be read."""
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        batch = producer.create_batch()
        for value in before:
            batch.append(key=None, value=value, timestamp=None)
        for _ in range(poisoned):
            batch.append(key=None, value=b"{}", timestamp=None, headers=[("POISON", b"")])
        await (await producer.send_batch(broken(batch), topic, partition=partition))


async def test_events_around_an_unreadable_record_all_count(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Good events before it in its own batch and after it in later ones: one dead letter, the rest counts."""
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=SHARDS)
    partition_of = partitioner(SHARDS)
    events = swarm_history(31, 60)
    chosen: list[Event] = [event for event in events if topic_of(event, names) == names.bid_placed][:40]
    home = partition_of(chosen[0].task_id)
    before = [event for event in chosen if partition_of(event.task_id) == home]
    rest = [event for event in events if event not in before]
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "state") as worker:
        await publish_with_poison(
            broker.bootstrap_servers,
            names.bid_placed,
            home,
            [json.dumps(json.loads(event.to_json())).encode() for event in before],
            poisoned=1,
        )
        await publish(broker.bootstrap_servers, names, rest)
        await metrics_equal_the_model(broker, names, events)
        assert await worker.stop() == 0
    (letter,) = await read_topic(broker.bootstrap_servers, names.dead_letters)
    headers = dict(letter.headers)
    assert headers["learner-reason"] == b"unreadable"
    assert headers["learner-origin"] == f"{names.bid_placed}/{home}/{len(before)}".encode()


async def _owned(worker: WorkerProcess) -> bool:
    return any(line["shards"] == [*range(SHARDS)] for line in worker.logged("lane.owns"))


async def test_requests_behind_an_unreadable_one_are_answered(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """An unreadable request on every partition: who asks after it gets an answer."""
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=SHARDS)
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "state") as worker:
        await until(partial(_owned, worker), "the requests of every shard are read")
        for partition in range(SHARDS):
            await publish_with_poison(broker.bootstrap_servers, names.requests, partition, [], poisoned=3)
        async with LearnerClient(
            broker.bootstrap_servers, topics=Topics(prefix=prefix), timeout_seconds=20
        ) as client:
            for number in range(2 * SHARDS):
                reply = await client.suggest_bid(f"agent-{number}", description="any", base_bid_sats=number)
                assert reply.suggested_bid_sats == number
        assert len(worker.logged("requests.unreadable")) == SHARDS
        assert await worker.stop() == 0
