"""Topics whose limits are lower than what the learner writes: one record is given up, never a shard."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from learner_worker import EventPublisher, LearnerClient
from learner_worker.brokers import Broker
from learner_worker.contract.topics import Topics
from learner_worker.kafka.partitioner import partitioner
from tests.integration.test_dead_letters import command
from tests.integration.test_whole_way import metrics_equal_the_model
from tests.support import model
from tests.support.swarm import swarm_history
from tests.support.workers import (
    administrator,
    create_topics,
    outcomes_on_disk,
    publish,
    read_topic,
    running_worker,
    until,
)

PARTITIONS = 2
COMPACTED = {"cleanup.policy": "compact", "min.compaction.lag.ms": "3600000"}
LONG = "word " * 3_200
"""A description of which a fact is longer than the lower limit."""
BIDDERS = 6
SECONDS_FOR_MILLISECONDS = 1_767_225_600
"""A moment of 2026; of January 1970 to whoever reads milliseconds."""


async def limit(broker: Broker, topic: str, most_bytes: int) -> None:
    """Sets the largest record that a topic takes."""
    configs = {**COMPACTED, "max.message.bytes": str(most_bytes)}
    async with administrator(broker.bootstrap_servers) as admin:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])


def long_auction(at: int) -> list[model.Event]:
    """An auction with a long description; its facts are long, too."""
    bids = [model.BidPlaced("long", f"long-{one}", 100 + one, LONG, at) for one in range(BIDDERS)]
    closed = model.AuctionClosed("long", "long-0", 100, at + 1_000_000)
    return [*bids, closed, model.TaskFinished("long", "long-0", True, at + 2_000_000)]


@pytest.mark.own_kafka
async def test_a_lower_limit_costs_only_the_facts_above_it_and_these_come_back(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Batches are split; facts above the limit become dead letters, once; raised again, they are replayed."""
    outcomes = Topics(prefix=prefix).named().outcomes
    configs = {**COMPACTED, "max.message.bytes": "10000"}
    async with administrator(broker.bootstrap_servers) as admin:
        await admin.create_topics([NewTopic(outcomes, PARTITIONS, 1, topic_configs=configs)])
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=PARTITIONS)
    small = swarm_history(17, 600)
    long = long_auction(max(event.closed_at for event in small if isinstance(event, model.AuctionClosed)))
    await publish(broker.bootstrap_servers, names, small)
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "state") as worker:
        await metrics_equal_the_model(broker, names, small)
        assert worker.logged("record.refused") == []
        await publish(broker.bootstrap_servers, names, long)

        async def are_dead_letters() -> bool:
            given_up = await read_topic(broker.bootstrap_servers, names.dead_letters)
            return min(len(given_up), len(worker.logged("record.refused"))) >= BIDDERS

        await until(are_dead_letters, "every long fact is a dead letter", seconds=120)
        refused = [line["key"] for line in worker.logged("record.refused")]
        assert len(refused) == BIDDERS == await worker.metric("learner_records_refused_total")
        assert worker.logged("shards.reload") == []

        await limit(broker, outcomes, 1_000_000)
        replayed = await command(broker, prefix, "replay")
        assert replayed.code == 0, replayed
        await metrics_equal_the_model(broker, names, [*small, *long])
        assert await worker.stop() == 0
    assert outcomes_on_disk(tmp_path / "state") == model.outcomes([*small, *long])


@pytest.mark.own_kafka
async def test_an_event_whose_time_kafka_refuses_is_one_dead_letter_and_holds_nothing_up(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """On a wrong partition, to be moved with its time of 1970, which the topic for that does not take."""
    rerouted = Topics(prefix=prefix).named().rerouted
    configs = {"message.timestamp.before.max.ms": "3600000"}
    async with administrator(broker.bootstrap_servers) as admin:
        await admin.create_topics([NewTopic(rerouted, PARTITIONS, 1, topic_configs=configs)])
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=PARTITIONS)
    lost = model.BidPlaced("lost", "echo", 100, "fix it", 1)
    wrong = 1 - partitioner(PARTITIONS)("lost")
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        await producer.send_and_wait(
            names.bid_placed, lost.to_json(), partition=wrong, timestamp_ms=SECONDS_FOR_MILLISECONDS
        )
    events = swarm_history(18, 20)
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "state") as worker:
        await publish(broker.bootstrap_servers, names, events)
        await metrics_equal_the_model(broker, names, events)

        async def dead_letters() -> list[Any]:
            return await read_topic(broker.bootstrap_servers, names.dead_letters)

        [letter] = await until(dead_letters, "the bid is a dead letter")
        headers = dict(letter.headers)
        assert (letter.value, headers["learner-reason"]) == (lost.to_json(), b"refused")
        assert b"InvalidTimestampError" in headers["learner-message"]
        assert worker.logged("shards.reload") == []
        assert await worker.stop() == 0


@pytest.mark.own_kafka
async def test_replies_that_their_topic_never_takes_keep_no_others_back(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """The shared topic takes none, another is not there: who has a topic of its own hears at once."""
    shared, own = Topics(prefix=prefix), Topics(prefix=prefix, replies="suggest-bid-replies.echo")
    narrow = {"max.message.bytes": "200"}
    async with administrator(broker.bootstrap_servers) as admin:
        await admin.create_topics(
            [
                NewTopic(shared.named().replies, 1, 1, topic_configs=narrow),
                NewTopic(own.named().replies, 1, 1),
            ]
        )
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=PARTITIONS)
    gone = f"{names.replies}.gone"
    async with (
        running_worker(broker.bootstrap_servers, prefix, tmp_path / "state") as worker,
        AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer,
        LearnerClient(broker.bootstrap_servers, topics=shared) as unheard,
        LearnerClient(broker.bootstrap_servers, topics=own) as heard,
    ):
        await producer.send_and_wait(
            names.requests,
            b'{"agent_id": "bob", "base_bid_sats": 7, "description": "d"}',
            headers=[("reply_to", gone.encode()), ("correlation_id", b"c")],
        )
        asking = asyncio.create_task(
            unheard.suggest_bid("ann", description="d", base_bid_sats=7, timeout_seconds=60)
        )

        async def refused() -> list[Any]:
            return worker.logged("reply.refused") + worker.logged("request.refused")

        async def both_are_refused() -> bool:
            return len(await refused()) == 2

        await until(both_are_refused, "the log names both replies")
        too_large, without_topic = await refused()
        assert (too_large["topic"], too_large["reason"]) == (names.replies, "MessageSizeTooLargeError")
        assert f"reply topic '{gone}' does not exist" in without_topic["error"]
        reply = await heard.suggest_bid("echo", description="d", base_bid_sats=7, timeout_seconds=60)
        assert (reply.suggested_bid_sats, asking.done()) == (7, False)
        asking.cancel()
        assert await worker.stop() == 0


@pytest.mark.own_kafka
async def test_an_event_refused_with_its_batch_is_sent_on_its_own(broker: Broker, prefix: str) -> None:
    """The topic takes every event, but not a batch of many: the publisher loses none of them."""
    topics = Topics(prefix=prefix)
    bids, events = topics.named().bid_placed, 200
    async with administrator(broker.bootstrap_servers) as admin:
        await admin.create_topics([NewTopic(bids, 1, 1, topic_configs={"max.message.bytes": "1000"})])
    async with EventPublisher(broker.bootstrap_servers, topics=topics, timeout_seconds=60) as publisher:
        for number in range(events):
            await publisher.bid_placed(
                f"task-{number}", "echo", bid_sats=100, description="parse", wait=False
            )
    records = await read_topic(broker.bootstrap_servers, bids)
    assert {record.key.decode() for record in records} == {f"task-{number}" for number in range(events)}
