"""A real worker with a retention: what is past it goes everywhere, and nothing brings it back."""

import contextlib
import json
import sqlite3
import time
from pathlib import Path

from learner_worker.brokers import Broker
from learner_worker.contract.facts import decode_fact
from learner_worker.contract.topics import TopicNames
from tests.support.model import AuctionClosed, BidPlaced, Event, TaskFinished
from tests.support.workers import WorkerProcess, create_topics, publish, read_topic, running_worker, until

SECOND = 1_000_000
SETTINGS = {
    "--outcome-retention-seconds": "30",
    "--auction-horizon-seconds": "3",
    "--checkpoint-interval-seconds": "0.2",
    "--group-instance-id": "one",  # noida-db never lets go of a dynamic member that was killed
}


def auction(task_id: str, agent_id: str, closed_at: int) -> list[Event]:
    """A won and completed task."""
    return [
        BidPlaced(task_id, agent_id, 70, "parse invoices", closed_at - SECOND),
        AuctionClosed(task_id, agent_id, None, closed_at),
        TaskFinished(task_id, agent_id, True, closed_at + SECOND),
    ]


async def say_what_time_it_is(broker: Broker, names: TopicNames) -> None:
    """An event on every shard: retention goes by what the swarm says, too."""
    now = time.time_ns() // 1000
    await publish(
        broker.bootstrap_servers,
        names,
        [BidPlaced(f"tick-{number}", "ticker", 1, "", now) for number in range(24)],
    )


async def facts_in_the_changelog(broker: Broker, names: TopicNames) -> set[str]:
    """The tasks of facts without a tombstone after them."""
    last: dict[bytes, bytes | None] = {}
    for record in sorted(
        await read_topic(broker.bootstrap_servers, names.outcomes), key=lambda record: record.offset
    ):
        last[record.key] = record.value
    return {decode_fact(value).task_id for value in last.values() if value is not None}


async def agents_with_metrics(broker: Broker, names: TopicNames) -> dict[str, int]:
    """How many bids the metrics topic knows of each agent that has any."""
    last: dict[str, bytes | None] = {}
    for record in sorted(
        await read_topic(broker.bootstrap_servers, names.metrics), key=lambda record: record.offset
    ):
        last[record.key.decode()] = record.value
    known = {agent_id: json.loads(value) for agent_id, value in last.items() if value is not None}
    return {agent_id: record["total_bids"] for agent_id, record in known.items()}


def rows_on_disk(folder: Path) -> tuple[int, int]:
    """How many rows of outcomes and agents the files hold, counted or not."""
    outcomes = agents = 0
    for path in folder.glob("shard-*.sqlite3"):
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            outcomes += connection.execute("SELECT count(*) FROM outcomes").fetchone()[0]
            agents += connection.execute("SELECT count(*) FROM agents").fetchone()[0]
    return outcomes, agents


async def nothing_is_left(broker: Broker, names: TopicNames, folder: Path) -> bool:
    """No row, no metrics record and no fact."""
    await say_what_time_it_is(broker, names)
    return (
        rows_on_disk(folder) == (0, 0)
        and await agents_with_metrics(broker, names) == {}
        and await facts_in_the_changelog(broker, names) == set()
    )


async def test_outcomes_age_away_and_a_lost_disk_does_not_bring_them_back(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """An old close never counts, a young one until it is old; then nothing has it or brings it back."""
    names = await create_topics(broker.bootstrap_servers, prefix)
    first, second = tmp_path / "first", tmp_path / "second"

    async def the_young_one_counts() -> bool:
        return await agents_with_metrics(broker, names) == {"young": 1}

    async with running_worker(broker.bootstrap_servers, prefix, first, settings=SETTINGS) as worker:
        await say_what_time_it_is(broker, names)
        now = time.time_ns() // 1000
        history = [*auction("t-old", "old", now - 60 * SECOND), *auction("t-young", "young", now)]
        await publish(broker.bootstrap_servers, names, history)
        await until(the_young_one_counts, "the young outcome alone counts")
        await until(lambda: nothing_is_left(broker, names, first), "the young outcome ages away")
        assert await worker.metric("learner_outcomes_expired_total") >= 1
        worker.process.kill()
        await worker.process.wait()
    async with running_worker(broker.bootstrap_servers, prefix, second, settings=SETTINGS) as worker:
        await publish(broker.bootstrap_servers, names, history)
        await until(lambda: _settled(worker, len(history)), "the events are read once more")
        await until(lambda: nothing_is_left(broker, names, second), "an empty disk brings nothing back")
        assert await worker.metric("learner_outcomes_total") == 0
        assert await worker.stop() == 0


async def _settled(worker: WorkerProcess, count: int) -> bool:
    return await worker.metric("learner_events_total") >= count
