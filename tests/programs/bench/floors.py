"""Raw floors: the same traffic with aiokafka alone, nothing decoded, nothing kept; each in its own process.

`python -m tests.programs.bench.floors '{"floor": ..., ...}'` does one and says its reading as JSON.
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
from tests.programs.bench.processor import Meter
from tests.support.batches import Batches

_POLL_MS = 100
_POLL_RECORDS = 4_000
_BATCH_BYTES = 64 * 1024
_ECHO_POLL_MS = 50
_CHUNK = 500
_TICK_SECONDS = 0.005


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
        meter = Meter()
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
        return meter.used()


async def consume(*, servers: str, topic: str, partitions: int, records: int) -> dict[str, float]:
    """Consumes a topic, nothing done."""
    async with _consumer(servers) as consumer:
        meter = Meter()
        await _consume(consumer, topic, partitions, records)
        return meter.used()


async def _consume(consumer: AIOKafkaConsumer, topic: str, partitions: int, records: int) -> None:
    _assign(consumer, [topic], partitions)
    read = 0
    while read < records:
        polled = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
        read += sum(map(len, polled.values()))


async def echo(
    *,
    servers: str,
    requests: str,
    partitions: int,
    backlog: Sequence[str] = (),
    backlog_rate: float = 0.0,
) -> None:
    """Sends every request back to where it says, as it came, until it is ended.

    With a backlog the same process also consumes those topics, so many records a second, again and again;
    it says on its last line how long its loop stood still at worst, when its input is closed.
    """
    async with (
        AIOKafkaConsumer(
            bootstrap_servers=servers, enable_auto_commit=False, fetch_max_wait_ms=_ECHO_POLL_MS
        ) as consumer,
        AIOKafkaProducer(bootstrap_servers=servers, acks=1, linger_ms=0) as producer,
    ):
        _assign(consumer, [requests], partitions)
        await consumer.seek_to_end()
        for partition in consumer.assignment():
            await consumer.position(partition)
        stalls = Stalls()
        tasks = [
            asyncio.create_task(_echo(consumer, producer), name="echo"),
            asyncio.create_task(stalls.watch(), name="stalls"),
        ]
        if backlog:
            working = _work_off(servers, backlog, partitions, backlog_rate)
            tasks.append(asyncio.create_task(working, name="backlog"))
        print("ready", flush=True)  # noqa: T201 (the parent waits for it)
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        print(json.dumps({"worst_stall_ms": stalls.worst_seconds * 1000}))  # noqa: T201


async def _echo(consumer: AIOKafkaConsumer, producer: AIOKafkaProducer) -> None:
    while True:
        polled = await consumer.getmany(timeout_ms=_ECHO_POLL_MS)
        for records in polled.values():
            for record in records:
                headers = dict(record.headers)
                await producer.send(
                    headers["reply_to"].decode(),
                    record.value,
                    key=record.key,
                    headers=[("correlation_id", headers["correlation_id"])],
                )


async def _work_off(servers: str, topics: Sequence[str], partitions: int, rate: float) -> None:
    """Consumes at a rate; from the beginning again where it comes to the end."""
    async with _consumer(servers) as consumer:
        _assign(consumer, topics, partitions)
        ends = sum((await consumer.end_offsets(list(consumer.assignment()))).values())
        began, read, round_read = time.perf_counter(), 0, 0
        while True:
            polled = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_CHUNK)
            found = sum(map(len, polled.values()))
            read, round_read = read + found, round_read + found
            if round_read >= ends:
                await consumer.seek_to_beginning()
                round_read = 0
            await asyncio.sleep(max(0.0, began + read / rate - time.perf_counter()))


class Stalls:
    """How long a process's event loop kept everybody waiting, at worst."""

    def __init__(self) -> None:
        self.worst_seconds = 0.0

    async def watch(self) -> None:
        """Looks every few milliseconds."""
        while True:
            asked = time.perf_counter()
            await asyncio.sleep(_TICK_SECONDS)
            self.worst_seconds = max(self.worst_seconds, time.perf_counter() - asked - _TICK_SECONDS)


FLOORS: dict[str, Callable[..., Awaitable[Any]]] = {"whole_way": whole_way, "consume": consume, "echo": echo}


async def _main(*, floor: str, **options: Any) -> None:
    said = await FLOORS[floor](**options)
    if said is not None:
        print(json.dumps(said))  # noqa: T201 (the parent reads it)


if __name__ == "__main__":
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL + 1)
    asyncio.run(_main(**json.loads(sys.argv[1])))
