"""Workers whose log nobody reads go on working, and count what is lost."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiokafka import AIOKafkaProducer

from learner_worker.brokers import Broker
from learner_worker.brokers.probing import free_ports
from learner_worker.client import LearnerClient
from learner_worker.contract.topics import TopicNames, Topics
from learner_worker.kafka.partitioner import partitioner
from tests.support.forked import clean_environment
from tests.support.workers import STOP_SECONDS, create_topics, http_get, until

PARTITIONS = 2
AGENTS = ("agent-5", "agent-6")
"""One of each shard."""
REFUSED = 6_000
"""Requests whose refusal is logged, for each shard: more than a pipe and the queue of log lines hold."""


@dataclass
class Unread:
    """A worker process whose stderr nobody reads."""

    process: asyncio.subprocess.Process
    port: int

    def metric(self, name: str) -> float:
        """A metric's value; -1 while it does not answer."""
        for line in http_get(f"http://127.0.0.1:{self.port}/metrics")[1].splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        return -1.0

    async def is_ready(self) -> bool:
        """Whether it is ready."""
        assert self.process.returncode is None
        return (await asyncio.to_thread(http_get, f"http://127.0.0.1:{self.port}/readyz"))[0] == 200

    async def has_lost_lines(self) -> bool:
        """Whether it has counted lost log lines."""
        return await asyncio.to_thread(self.metric, "learner_log_lines_lost_total") > 0


@asynccontextmanager
async def unread_worker(
    broker: Broker, prefix: str, folder: Path, *, stderr: int, before: Callable[[], None] | None = None
) -> AsyncIterator[Unread]:
    """A running worker; `before` is called in its process before it is Python."""
    [port] = free_ports(1)
    flags = ["--bootstrap-servers", broker.bootstrap_servers, "--topic-prefix", prefix]
    flags += ["--group-id", f"{prefix}learner", "--state-dir", str(folder), "--http-port", str(port)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "learner_worker", "run", *flags),
        env=clean_environment(),
        stdout=stderr,
        stderr=stderr,
        preexec_fn=before,
    )
    try:
        yield Unread(process, port)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def opened_as(pid: int, descriptors: Collection[int]) -> list[Path]:
    """What a process has opened as some descriptors."""
    return [Path(f"/proc/{pid}/fd/{number}").readlink() for number in descriptors]


async def send_refused(broker: Broker, names: TopicNames) -> None:
    """Sends every shard requests whose reply topic is not allowed: each one is logged."""
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers, linger_ms=5) as producer:
        for number in range(REFUSED * PARTITIONS):
            sent = await producer.send(
                names.requests,
                json.dumps({"agent_id": "a", "base_bid_sats": 1, "description": ""}).encode(),
                partition=number % PARTITIONS,
                headers=[("reply_to", b"elsewhere"), ("correlation_id", b"c")],
            )
        await sent


async def test_a_worker_whose_log_is_not_read_answers_and_counts_what_is_lost(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """A reader that is gone, and one that stands still: agents get answers, lost lines are counted."""
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=PARTITIONS)
    assert {partitioner(PARTITIONS)(agent) for agent in AGENTS} == set(range(PARTITIONS))
    reading, nobody = os.pipe()
    os.close(reading)
    stands_still, unread = os.pipe()
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(
                unread_worker(broker, prefix, tmp_path / str(number), stderr=stderr)
            )
            for number, stderr in enumerate((nobody, unread))
        ]
        for worker in workers:
            await until(worker.is_ready, "the worker is ready")
        await send_refused(broker, names)
        for worker in workers:
            await until(worker.has_lost_lines, "log lines are lost", seconds=120)
        async with LearnerClient(broker.bootstrap_servers, topics=Topics(prefix=prefix)) as client:
            await client.ready()
            for agent in AGENTS:
                reply = await client.suggest_bid(
                    agent, description="fix it", base_bid_sats=100, timeout_seconds=30
                )
                assert reply.suggested_bid_sats == 100
        for worker in workers:
            worker.process.terminate()
        codes = [await asyncio.wait_for(worker.process.wait(), STOP_SECONDS) for worker in workers]
        assert codes == [0, 0]
    for descriptor in (nobody, stands_still, unread):
        os.close(descriptor)


async def test_a_worker_without_stdout_and_stderr_runs(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """`>&- 2>&-`: no file gets their numbers, it serves and stops with exit code 0."""
    await create_topics(broker.bootstrap_servers, prefix, partitions=1)

    def close() -> None:
        os.close(1)
        os.close(2)

    async with unread_worker(
        broker, prefix, tmp_path / "state", stderr=asyncio.subprocess.DEVNULL, before=close
    ) as worker:
        await until(worker.is_ready, "the worker is ready")
        assert opened_as(worker.process.pid, (1, 2)) == [Path(os.devnull), Path(os.devnull)]
        worker.process.terminate()
        assert await asyncio.wait_for(worker.process.wait(), STOP_SECONDS) == 0
