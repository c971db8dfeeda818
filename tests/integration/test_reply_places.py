"""Who reads which replies: partitions and topics of a client's own, answered by a real worker."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import NewPartitions, NewTopic

from learner_worker import BlockingLearnerClient, LearnerClient
from learner_worker.brokers import Broker
from learner_worker.client.replies import ALL_PARTITIONS, PendingReplies
from learner_worker.contract.topics import Topics
from tests.support.workers import administrator, create_topics, read_topic, running_worker, until

ASKS = 60
PARTITIONS = 4
EARLIER = "earlier"


@pytest.fixture
async def topics(broker: Broker, prefix: str, tmp_path: Path) -> AsyncIterator[Topics]:
    """The test's own topics, and a worker that answers for every shard."""
    await create_topics(broker.bootstrap_servers, prefix, partitions=PARTITIONS)
    topics = Topics(prefix=prefix)
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "state"):
        async with LearnerClient(broker.bootstrap_servers, topics=topics, timeout_seconds=5) as client:
            await until(lambda: _all_are_advised(client), "every shard answers")
        yield topics


async def _all_are_advised(client: LearnerClient) -> bool:
    asking = [
        client.suggest_bid_or_base(f"{EARLIER}-{number}", description="", base_bid_sats=1)
        for number in range(8 * PARTITIONS)
    ]
    return all(advice.advised for advice in await asyncio.gather(*asking))


async def replies(servers: str, topics: Topics) -> list[Any]:
    """The replies on the reply topic, but for those of the fixture's asks."""
    found = await read_topic(servers, topics.named().replies)
    return [record for record in found if not record.key.startswith(EARLIER.encode())]


@pytest.fixture
def read_by(monkeypatch: pytest.MonkeyPatch) -> Counter[PendingReplies]:
    """How many records each client has read from the reply topic, its own and others'."""
    counted: Counter[PendingReplies] = Counter()
    deliver = PendingReplies.deliver

    def count(pending: PendingReplies, record: Any) -> None:
        counted[pending] += 1
        deliver(pending, record)

    monkeypatch.setattr(PendingReplies, "deliver", count)
    return counted


async def ask_all(client: LearnerClient, name: str) -> None:
    """Asks for many agents at once; everyone gets its own reply."""
    replies = await asyncio.gather(
        *(
            client.suggest_bid(f"{name}-{number}", description="", base_bid_sats=number)
            for number in range(ASKS)
        )
    )
    assert [(reply.agent_id, reply.suggested_bid_sats) for reply in replies] == [
        (f"{name}-{number}", number) for number in range(ASKS)
    ]


def ask_all_blocking(client: BlockingLearnerClient, name: str) -> None:
    """The same from threads."""

    def ask(number: int) -> tuple[str, int]:
        reply = client.suggest_bid(f"{name}-{number}", description="", base_bid_sats=number)
        return reply.agent_id, reply.suggested_bid_sats

    with ThreadPoolExecutor(10) as threads:
        replies = list(threads.map(ask, range(ASKS)))
    assert replies == [(f"{name}-{number}", number) for number in range(ASKS)]


async def test_replies_to_another_partition_never_arrive(
    broker: Broker, topics: Topics, read_by: Counter[PendingReplies]
) -> None:
    """Two clients with partitions of their own ask at the same time: each reads its own replies alone."""
    servers = broker.bootstrap_servers
    async with (
        LearnerClient(servers, topics=topics, timeout_seconds=30, reply_partition=0) as one,
        LearnerClient(servers, topics=topics, timeout_seconds=30, reply_partition=1) as two,
    ):
        await asyncio.gather(ask_all(one, "one"), ask_all(two, "two"))
        assert list(read_by.values()) == [ASKS, ASKS]
    lie = Counter(record.partition for record in await replies(servers, topics))
    assert lie == {0: ASKS, 1: ASKS}


async def test_replies_to_another_partition_never_arrive_at_a_blocking_client(
    broker: Broker, topics: Topics, read_by: Counter[PendingReplies]
) -> None:
    """The same of a blocking client beside an asynchronous one."""
    servers = broker.bootstrap_servers

    def ask() -> None:
        with BlockingLearnerClient(servers, topics=topics, timeout_seconds=30, reply_partition=2) as blocking:
            ask_all_blocking(blocking, "blocking")

    async with LearnerClient(servers, topics=topics, timeout_seconds=30, reply_partition=3) as other:
        await asyncio.gather(asyncio.to_thread(ask), ask_all(other, "other"))
    assert list(read_by.values()) == [ASKS, ASKS]


async def test_two_clients_on_one_partition_both_get_theirs(
    broker: Broker, topics: Topics, read_by: Counter[PendingReplies]
) -> None:
    """Clients that share a partition, one of them blocking, read each other's replies and pass over them."""
    servers = broker.bootstrap_servers
    finished = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask() -> None:
        with BlockingLearnerClient(servers, topics=topics, timeout_seconds=30, reply_partition=2) as blocking:
            ask_all_blocking(blocking, "blocking")
            asyncio.run_coroutine_threadsafe(finished.wait(), loop).result(60)

    async def both_have_read_everything() -> bool:
        return sorted(read_by.values()) == [2 * ASKS, 2 * ASKS]

    async with LearnerClient(servers, topics=topics, timeout_seconds=30, reply_partition=2) as other:
        asking = asyncio.create_task(asyncio.to_thread(ask))

        async def blocking_asks() -> bool:
            return len(read_by) > 0

        await until(blocking_asks, "the blocking client is open and asks")
        await ask_all(other, "other")
        await until(both_have_read_everything, "each client has read all replies of the partition")
        finished.set()
        await asking
        assert (other.pending, len(read_by)) == (0, 2)


async def test_by_default_a_client_reads_one_partition_and_on_demand_all(
    broker: Broker, topics: Topics, read_by: Counter[PendingReplies]
) -> None:
    """Without a wish all replies come to one partition; "all" leaves them where their keys belong."""
    servers = broker.bootstrap_servers
    async with (
        LearnerClient(servers, topics=topics, timeout_seconds=30) as default,
        LearnerClient(servers, topics=topics, timeout_seconds=30, reply_partition=ALL_PARTITIONS) as reader,
    ):
        await ask_all(default, "default")

        async def reader_has_read_everything() -> bool:
            return list(read_by.values()) == [ASKS, ASKS]

        await until(reader_has_read_everything, "who reads all partitions has read the default's replies")
        before = await replies(servers, topics)
        await ask_all(reader, "reader")
        after = await replies(servers, topics)
        (own_partition,) = {record.partition for record in before}
        there = len([record for record in after if record.partition == own_partition])
        assert ASKS < there < 2 * ASKS

        async def default_has_read_its_partition() -> bool:
            return sorted(read_by.values()) == [there, 2 * ASKS]

        await until(default_has_read_its_partition, "the default's partition is read, and no other")
    others = {record.partition for record in after if record.key.startswith(b"reader")}
    assert others == set(range(PARTITIONS))


async def test_a_topic_of_its_own(broker: Broker, topics: Topics, prefix: str) -> None:
    """An agent with a reply topic of its own gets its replies there; the shared topic has none of them."""
    servers = broker.bootstrap_servers
    own = Topics(prefix=prefix, replies="suggest-bid-replies.echo")
    async with administrator(servers) as admin:
        await admin.create_topics([NewTopic(own.named().replies, 1, 1)])
    async with LearnerClient(servers, topics=own, timeout_seconds=30) as client:
        async with LearnerClient(servers, topics=own, timeout_seconds=1) as impatient:
            await until(lambda: _all_are_advised(impatient), "the worker has noticed the new topic")
        await ask_all(client, "echo")
    assert len(await replies(servers, own)) == ASKS
    assert await replies(servers, topics) == []


async def test_a_partition_that_the_reply_topic_is_given_later_is_written_to(
    broker: Broker, topics: Topics
) -> None:
    """The reply topic grows under a running worker: a client on the new partition is answered soon."""
    servers = broker.bootstrap_servers
    async with administrator(servers) as admin:
        await admin.create_partitions({topics.named().replies: NewPartitions(PARTITIONS + 1)})

    async with LearnerClient(servers, topics=topics, timeout_seconds=2, reply_partition=PARTITIONS) as client:

        async def advised() -> bool:
            return (await client.suggest_bid_or_base("late", description="", base_bid_sats=7)).advised

        assert await until(advised, "the new partition is known", seconds=30)
