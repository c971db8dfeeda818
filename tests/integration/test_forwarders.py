"""Several forwarders on real brokers: they share the agents' own topics."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiokafka import AIOKafkaProducer

from learner_worker.brokers import Broker
from learner_worker.contract.topics import TopicName
from tests.support.forwarder import create_agent_topic, running_forwarder
from tests.support.tokens import secret_file
from tests.support.workers import WorkerProcess, create_topics, read_topic, until


class Agent:
    """Writes requests to a topic of its own, each with another description."""

    def __init__(self, producer: AIOKafkaProducer, topic: TopicName) -> None:
        self._producer = producer
        self._topic = topic
        self.asked = 0

    async def ask(self) -> None:
        """Writes a request."""
        request = {"agent_id": "ann", "base_bid_sats": 7, "description": f"task {self.asked}"}
        await self._producer.send_and_wait(self._topic, json.dumps(request).encode())
        self.asked += 1

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """Writes without a pause until the block ends."""
        going_on = True

        async def ask_again_and_again() -> None:
            while going_on:
                await self.ask()

        task = asyncio.create_task(ask_again_and_again(), name="ask")
        try:
            yield
        finally:
            going_on = False
            await task


async def test_a_second_forwarder_joins_one_at_work_and_takes_over(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """The first has something to commit when it learns of the second; no request is lost on the way."""
    servers = broker.bootstrap_servers
    names = await create_topics(servers, prefix)
    topic = TopicName(f"{names.requests}.ann")
    await create_agent_topic(servers, topic)
    flags = ("--agent-topic", f"{topic}=ann", "--identity-secret-file", str(secret_file(tmp_path)))

    def forwarder(name: str) -> AbstractAsyncContextManager[WorkerProcess]:
        folder = tmp_path / name
        folder.mkdir()
        return running_forwarder(servers, prefix, folder, *flags)

    async def all_arrived() -> bool:
        records = await read_topic(servers, names.requests)
        arrived = {json.loads(record.value)["description"] for record in records}
        return arrived == {f"task {number}" for number in range(agent.asked)}

    async with (
        AIOKafkaProducer(bootstrap_servers=servers) as producer,
        forwarder("one") as one,
        AsyncExitStack() as stack,
    ):
        agent = Agent(producer, topic)
        await agent.ask()
        await until(all_arrived, "the first forwards")
        async with agent.asking():
            two = await stack.enter_async_context(forwarder("two"))
        assert await one.stop() == 0
        await agent.ask()
        await until(all_arrived, "the second forwards what the first has not, and what is asked afterwards")
        assert await two.stop() == 0
