"""The main job on a real broker: events in, outcomes in SQLite, metrics and suggestions out."""

import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from aiokafka.admin import NewTopic

from learner_worker.brokers import Broker
from learner_worker.client import LearnerClient
from learner_worker.contract.topics import TopicNames, Topics
from tests.support import model
from tests.support.swarm import TOPICS, shuffled_with_duplicates, swarm_history
from tests.support.workers import (
    WorkerProcess,
    administrator,
    create_topics,
    outcomes_on_disk,
    publish,
    reading,
    running_worker,
    shards_held_by_both,
    until,
)

AUCTIONS = 100
BASE_BIDS = (0, 1, 137, 2**53 - 1)


async def test_history_in_causal_order_gives_the_models_metrics_keywords_and_suggestions(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """100 auctions in causal order: every outcome, metric, keyword and suggestion equals the model's."""
    await _judge(broker, prefix, tmp_path, swarm_history(1, AUCTIONS))


async def test_shuffled_and_duplicated_history_gives_the_models_metrics_keywords_and_suggestions(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """The same 100 auctions shuffled, a fifth of the events twice: nothing is lost or counted twice."""
    events = shuffled_with_duplicates(swarm_history(1, AUCTIONS), seed=2)
    await _judge(broker, prefix, tmp_path, events)


async def test_events_without_keys_on_any_partition_count_the_same(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Events without keys, on any partition: what lies wrong is moved once, and counts the same."""
    await _judge(broker, prefix, tmp_path, swarm_history(4, AUCTIONS), keyed=False)


async def test_record_times_in_seconds_cost_no_outcome(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """1970, by the records: the closes come when all bids have long been read, and every auction counts.

    Kafka keeps them whatever their times are: by its default it would delete them, now or some minutes later.
    """
    planned = Topics(prefix=prefix).named()
    sources = (planned.bid_placed, planned.auction_closed, planned.task_finished)
    async with administrator(broker.bootstrap_servers) as admin:
        kept = {"retention.ms": "-1"}
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=kept) for topic in sources])
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=1)
    events, seconds = swarm_history(5, AUCTIONS), int(time.time())
    bids = [event for event in events if isinstance(event, model.BidPlaced)]
    others = [event for event in events if not isinstance(event, model.BidPlaced)]
    half = len(bids) // 2
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path) as worker:
        published = 0
        for part in (bids[:half], bids[half:], others):
            await publish(broker.bootstrap_servers, names, part, timestamp_ms=seconds)
            published += len(part)
            await until(partial(_has_read, worker, published), "the worker has read them")
        await metrics_equal_the_model(broker, names, events)
        assert await worker.metric("learner_record_times_off_total") == published
        topics = {line["topic"] for line in worker.logged("event.record_time_off")}
        assert topics == {names.bid_placed, names.auction_closed, names.task_finished}


async def _has_read(worker: WorkerProcess, events: int) -> bool:
    return await worker.metric("learner_events_total") >= events


async def test_two_replicas_share_the_shards_and_answer_for_all_agents(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Two replicas on one group: each has half of the shards, together they equal the model."""
    names = await create_topics(broker.bootstrap_servers, prefix)
    events = swarm_history(3, AUCTIONS)

    def replica(name: str) -> AbstractAsyncContextManager[WorkerProcess]:
        # Static members: noida-db never lets go of a dynamic one that aiokafka replaces in a rebalance.
        static = {"--group-instance-id": name}
        return running_worker(broker.bootstrap_servers, prefix, tmp_path / name, settings=static)

    async with replica("one") as one:
        await publish(broker.bootstrap_servers, names, events[: len(events) // 2])
        async with replica("two") as two:
            await publish(broker.bootstrap_servers, names, events[len(events) // 2 :])
            await metrics_equal_the_model(broker, names, events)
            await _suggestions_equal_the_model(broker, prefix, events)

            async def halved() -> bool:
                shares = [worker.logged("shards.assigned")[-1]["shards"] for worker in (one, two)]
                whole = sorted(shard for share in shares for shard in share) == [0, 1, 2, 3]
                return whole and [len(share) for share in shares] == [2, 2]

            await until(halved, "each has half of the shards")
            assert shards_held_by_both(one, two) == set()
            assert await two.stop() == 0
        assert await one.stop() == 0


async def _judge(
    broker: Broker, prefix: str, tmp_path: Path, events: Sequence[model.Event], *, keyed: bool = True
) -> None:
    names = await create_topics(broker.bootstrap_servers, prefix)
    state_dir = tmp_path / "state"
    async with running_worker(broker.bootstrap_servers, prefix, state_dir) as worker:
        await publish(broker.bootstrap_servers, names, events, keyed=keyed)
        await metrics_equal_the_model(broker, names, events)
        await _suggestions_equal_the_model(broker, prefix, events)
        assert await worker.stop() == 0
    assert outcomes_on_disk(state_dir) == model.outcomes(events)


async def metrics_equal_the_model(
    broker: Broker, names: TopicNames, events: Sequence[model.Event], *, seconds: float = 150
) -> None:
    expected = {
        agent_id: _record(agent_id, metrics)
        for agent_id, metrics in model.metrics(model.outcomes(events)).items()
    }
    found: dict[str, dict[str, Any]] = {}

    async def equal() -> bool:
        found.clear()
        found.update({agent_id: _compared(record) for agent_id, record in (await metrics.latest()).items()})
        return found == expected

    async with reading(broker.bootstrap_servers, names.metrics) as metrics:
        try:
            await until(equal, "the metrics topic equals the model", seconds=seconds)
        except AssertionError:
            assert found == expected
            raise


def _compared(record: dict[str, Any]) -> dict[str, Any]:
    """A metrics record without what the model cannot know."""
    return {name: value for name, value in record.items() if name not in {"as_of", "outcome_offset"}}


def _record(agent_id: str, metrics: model.Metrics) -> dict[str, Any]:
    return {
        "agent_id": agent_id,
        "total_bids": metrics.total_bids,
        "auctions_won": metrics.auctions_won,
        "tasks_completed": metrics.tasks_completed,
        "tasks_failed": metrics.tasks_failed,
        "win_rate": metrics.win_rate,
        "success_rate": metrics.success_rate,
        "avg_winning_bid_sats": metrics.avg_winning_bid_sats,
        "learned_keywords": [asdict(word) for word in model.strongest_keywords(metrics)],
        "top_keywords": [asdict(word) for word in model.learned_keywords(metrics)[:10]],
    }


async def _suggestions_equal_the_model(broker: Broker, prefix: str, events: Sequence[model.Event]) -> None:
    metrics = model.metrics(model.outcomes(events))
    async with LearnerClient(broker.bootstrap_servers, topics=Topics(prefix=prefix)) as learner:
        for index, agent_id in enumerate([*metrics, "a-stranger"]):
            description = TOPICS[index % len(TOPICS)]
            base = BASE_BIDS[index % len(BASE_BIDS)]
            reply = await learner.suggest_bid(agent_id, description=description, base_bid_sats=base)
            expected = model.classic(metrics.get(agent_id), description, base)
            assert reply.suggested_bid_sats == expected.suggested_bid_sats
            assert reply.factor == expected.factor
            assert [(item.rule, item.multiplier) for item in reply.adjustments] == expected.rules
            assert reply.stale is False
            assert (reply.as_of is None) == (agent_id not in metrics)
