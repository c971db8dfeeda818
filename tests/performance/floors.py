"""Raw floors: the same traffic with aiokafka alone, nothing decoded, nothing kept; each in its own process.

`python -m tests.performance.floors '{"floor": ..., ...}'` does one and says its reading as JSON.
"""

import asyncio
import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from learner_worker.contract.topics import TopicName
from tests.batches import Batches

_POLL_MS = 100
_POLL_RECORDS = 4_000
_BATCH_BYTES = 64 * 1024
_ECHO_POLL_MS = 50


def _consumer(servers: str) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        bootstrap_servers=servers,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=_POLL_MS,
    )


def _assign(consumer: AIOKafkaConsumer, topics: Sequence[str], partitions: int) -> None:
    consumer.assign([TopicPartition(topic, number) for topic in topics for number in range(partitions)])


async def whole_way(
    *,
    servers: str,
    sources: Sequence[str],
    target: str,
    partitions: int,
    events: int,
    records: int,
    key_bytes: int,
    value_bytes: int,
) -> dict[str, float]:
    """Consumes the sources, writes as many records of an outcome's size, consumes those."""
    key, value = b"k" * key_bytes, b"v" * value_bytes
    async with (
        _consumer(servers) as consumer,
        AIOKafkaProducer(bootstrap_servers=servers, acks="all", max_batch_size=_BATCH_BYTES) as producer,
    ):
        _assign(consumer, sources, partitions)
        batches = Batches(producer)
        began, cpu = time.perf_counter(), time.process_time()
        read = written = 0
        while read < events:
            polled = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
            for found in polled.values():
                read += len(found)
            while written * events < read * records:
                await batches.add(TopicName(target), written % partitions, key, value)
                written += 1
        await batches.flush()
        await _consume(consumer, target, partitions, records)
        return {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}


async def consume(*, servers: str, topic: str, partitions: int, records: int) -> dict[str, float]:
    """Consumes a topic, nothing done."""
    async with _consumer(servers) as consumer:
        began, cpu = time.perf_counter(), time.process_time()
        await _consume(consumer, topic, partitions, records)
        return {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}


async def _consume(consumer: AIOKafkaConsumer, topic: str, partitions: int, records: int) -> None:
    _assign(consumer, [topic], partitions)
    read = 0
    while read < records:
        polled = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
        read += sum(map(len, polled.values()))


FLOORS: dict[str, Callable[..., Awaitable[Any]]] = {"whole_way": whole_way, "consume": consume}


async def _main(*, floor: str, **options: Any) -> None:
    print(json.dumps(await FLOORS[floor](**options)))  # noqa: T201 (the parent reads it)


if __name__ == "__main__":
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL + 1)
    asyncio.run(_main(**json.loads(sys.argv[1])))
