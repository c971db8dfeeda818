"""`forget` on a real broker: an agent's past goes everywhere and for good, and it may begin anew."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition

from learner_worker.brokers import Broker
from learner_worker.client import LearnerClient
from learner_worker.contract.facts import Fact, decode_outcome_record
from learner_worker.contract.topics import TopicNames, Topics
from learner_worker.kafka.admin import Committed
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.group_offsets import commit_for_group
from tests.acceptance.test_refusals import Ended, learner_worker
from tests.support.forked import clean_environment
from tests.support.model import AuctionClosed, BidPlaced, Event, TaskFinished
from tests.support.workers import (
    create_topics,
    latest_metrics,
    publish,
    read_topic,
    running_worker,
    until,
)

SECOND = 1_000_000
SETTINGS = {
    "--checkpoint-interval-seconds": "0.2",
    "--group-instance-id": "one",  # noida-db never lets go of a dynamic member that was killed
}
ROWS = {
    "outcomes": "SELECT count(*) FROM outcomes WHERE agent_id = ?",
    "agents": "SELECT count(*) FROM agents WHERE agent_id = ?",
    "keywords": "SELECT count(*) FROM keywords WHERE agent_id = ?",
}


def auctions(task: str, winner: str, loser: str, closed_at: int, count: int = 3) -> list[Event]:
    """Some tasks that one agent wins and completes and another one loses."""
    events: list[Event] = []
    for number in range(count):
        task_id = f"{task}-{number}"
        events += [
            BidPlaced(task_id, winner, 70, "parse invoices", closed_at - SECOND),
            BidPlaced(task_id, loser, 80, "parse invoices", closed_at - SECOND),
            AuctionClosed(task_id, winner, None, closed_at),
            TaskFinished(task_id, winner, True, closed_at + SECOND),
        ]
    return events


def corrections(task: str, winner: str, closed_at: int) -> list[Event]:
    """Closes and results that go over the first ones, which then stand behind no row."""
    return [
        AuctionClosed(f"{task}-0", winner, None, closed_at + 2),
        TaskFinished(f"{task}-0", winner, False, closed_at + 2 * SECOND),
    ]


async def forget(broker: Broker, prefix: str, *arguments: str) -> Ended:
    """The command, in the worker's group."""
    return await learner_worker(
        *("forget", *arguments, "--bootstrap-servers", broker.bootstrap_servers),
        *("--topic-prefix", prefix, "--group-id", f"{prefix}learner"),
    )


async def totals(broker: Broker, names: TopicNames) -> dict[str, int]:
    """How many outcomes the metrics topic counts, by agent."""
    records = await latest_metrics(broker.bootstrap_servers, names)
    return {agent_id: record["total_bids"] for agent_id, record in records.items()}


async def count(broker: Broker, names: TopicNames, expected: dict[str, int]) -> None:
    """Waits until the metrics topic counts just so."""

    async def counts() -> bool:
        return await totals(broker, names) == expected

    await until(counts, f"metrics count {expected}")


def rows_of(folder: Path, agent_id: str) -> dict[str, int]:
    """How many rows of an agent the shards' files hold, by table."""
    found = dict.fromkeys(ROWS, 0)
    for path in folder.glob("shard-*.sqlite3"):
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            for table, query in ROWS.items():
                found[table] += connection.execute(query, (agent_id,)).fetchone()[0]
    return found


async def facts_of(broker: Broker, names: TopicNames, agent_id: str) -> list[Fact]:
    """An agent's facts in the changelog that no tombstone follows."""
    records = await read_topic(broker.bootstrap_servers, names.outcomes)
    last = {
        record.key: record.value
        for record in sorted(records, key=lambda found: (found.partition, found.offset))
    }
    contents = [decode_outcome_record(value) for value in last.values() if value is not None]
    return [found for found in contents if isinstance(found, Fact) and found.agent_id == agent_id]


async def suggestion(broker: Broker, prefix: str, agent_id: str) -> Any:
    """What the agent is told."""
    async with LearnerClient(
        broker.bootstrap_servers, topics=Topics(prefix=prefix), timeout_seconds=30
    ) as client:
        return await client.suggest_bid(
            agent_id, description="parse invoices", base_bid_sats=100, include=("learned_keywords",)
        )


def nothing(folder: Path) -> bool:
    return rows_of(folder, "ann") == dict.fromkeys(ROWS, 0)


async def test_an_agent_is_forgotten_for_good_and_begins_anew(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Rows, metrics, facts and advice go; a lost disk and sources read again bring nothing back."""
    names = await create_topics(broker.bootstrap_servers, prefix)
    first, second = tmp_path / "first", tmp_path / "second"
    now = time.time_ns() // 1000
    closed_at = now - 60 * SECOND
    history = [*auctions("old", "ann", "bob", closed_at), *corrections("old", "ann", closed_at)]

    async with running_worker(broker.bootstrap_servers, prefix, first, settings=SETTINGS) as worker:
        await publish(broker.bootstrap_servers, names, history)
        await count(broker, names, {"ann": 3, "bob": 3})
        tried = await forget(broker, prefix, "ann", "--dry-run")
        assert (tried.code, tried.err) == (0, "")
        assert "would forget what agent 'ann' did until" in tried.out
        assert "its metrics record counts 3 outcomes" in tried.out
        assert await totals(broker, names) == {"ann": 3, "bob": 3}

        done = await forget(broker, prefix, "ann", "--yes")
        assert done.code == 0, done
        assert "has forgotten it; it has no metrics record" in done.out
        assert await totals(broker, names) == {"bob": 3}
        assert nothing(first)
        assert await facts_of(broker, names, "ann") == []
        reply = await suggestion(broker, prefix, "ann")
        assert (reply.suggested_bid_sats, reply.as_of) == (100, None)
        assert (reply.metrics.total_bids, reply.learned_keywords) == (0, [])
        assert (await suggestion(broker, prefix, "bob")).metrics.total_bids == 3
        worker.process.kill()
        await worker.process.wait()

    async with running_worker(broker.bootstrap_servers, prefix, second, settings=SETTINGS) as worker:
        await publish(broker.bootstrap_servers, names, history)

        async def settled() -> bool:
            return await worker.metric("learner_events_total") >= len(history)

        await until(settled, "the events are read once more")
        await count(broker, names, {"bob": 3})

        async def gone() -> bool:  # its row goes with the checkpoint after the one that published it
            return await worker.metric("learner_lag_records") == 0 and nothing(second)

        await until(gone, "nothing of the agent is kept")
        again = time.time_ns() // 1000 + SECOND
        await publish(broker.bootstrap_servers, names, auctions("new", "ann", "bob", again, 2))
        await count(broker, names, {"ann": 2, "bob": 5})
        assert (await suggestion(broker, prefix, "ann")).metrics.auctions_won == 2

        part = await forget(broker, prefix, "ann", "--until", "1h", "--yes")
        assert part.code == 0, part
        assert "its metrics record counts 2 outcomes" in part.out
        assert await worker.stop() == 0
    verified = await learner_worker(
        *("state", "verify", "--state-dir", str(second), "--bootstrap-servers", broker.bootstrap_servers),
        *("--topic-prefix", prefix),
    )
    assert verified.code == 0, verified
    rebuilt = await learner_worker(
        *("state", "rebuild", "--all", "--state-dir", str(second)),
        *("--bootstrap-servers", broker.bootstrap_servers, "--topic-prefix", prefix),
    )
    assert rebuilt.code == 0, rebuilt
    assert rows_of(second, "ann")["outcomes"] == 2


async def test_a_marker_waits_for_a_worker(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """Without a worker the command says so, and the next one that starts forgets before it answers."""
    names = await create_topics(broker.bootstrap_servers, prefix)
    history = auctions("old", "ann", "bob", time.time_ns() // 1000 - 60 * SECOND)
    folder = tmp_path / "state"
    async with running_worker(broker.bootstrap_servers, prefix, folder, settings=SETTINGS) as worker:
        await publish(broker.bootstrap_servers, names, history)
        await count(broker, names, {"ann": 3, "bob": 3})
        assert await worker.stop() == 0
    assert rows_of(folder, "ann")["outcomes"] == 3

    written = await forget(broker, prefix, "ann", "--yes", "--wait", "0")
    assert written.code == 0, written
    assert "takes effect when a worker reads the marker" in written.out
    waited = await forget(broker, prefix, "ann", "--yes", "--wait", "1")
    assert waited.code == 1, waited
    assert "not in effect yet" in waited.out

    async with running_worker(broker.bootstrap_servers, prefix, folder, settings=SETTINGS) as worker:
        assert (await suggestion(broker, prefix, "ann")).metrics.total_bids == 0
        await count(broker, names, {"bob": 3})

        async def gone() -> bool:
            return nothing(folder)

        await until(gone, "the rows are gone from the disk")
        assert await worker.stop() == 0


async def test_what_cannot_be_forgotten_is_said(broker: Broker, prefix: str) -> None:
    """No topics: exit code 2, and their names; nothing is written and nobody is asked for consent twice."""
    ended = await forget(broker, prefix, "ann", "--yes")
    assert ended.code == 2
    assert "missing topics" in ended.sentence
    assert "topics create" in ended.sentence


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ann",), "give --yes"),
        (("",), "is no agent id"),
        (("a\nb", "--yes"), "'a\\nb' is no agent id"),
        (("x" * 257, "--yes"), "is no agent id"),
        (("ann", "--yes", "--until", "yesterday"), "is neither a time"),
        (("ann", "--yes", "--until", "30000d"), "is neither a time"),
        (("ann", "--yes", "--until", "999999d"), "is neither a time"),
        (("ann", "--yes", "--until", "2999-01-01T00:00:00Z"), "is in the future"),
        (("ann", "--yes", "--wait", "-1"), "--wait"),
        (("ann", "--yes", "--wait", "nan"), "--wait"),
    ],
)
async def test_a_mistake_is_said_before_kafka_is_asked(arguments: tuple[str, ...], said: str) -> None:
    """Exit code 2 and a sentence; no broker is there to answer."""
    ended = await learner_worker("forget", *arguments, "--bootstrap-servers", "127.0.0.1:1")
    assert ended.code == 2
    assert said in ended.err


def test_a_no_writes_nothing() -> None:
    """On a terminal it asks; no is an answer, exit code 2, before Kafka is asked."""
    ours, theirs = os.openpty()
    os.write(ours, b"n\n")
    ended = subprocess.run(
        [sys.executable, "-m", "learner_worker", "forget", "ann", "--bootstrap-servers", "127.0.0.1:1"],
        stdin=theirs,
        capture_output=True,
        env=clean_environment(),
        timeout=60,
        check=False,
    )
    os.close(ours)
    os.close(theirs)
    assert ended.returncode == 2
    assert b"Forget all that agent 'ann' did until" in ended.stdout
    assert ended.stderr == b"learner-worker: not confirmed: nothing was written\n"


async def test_a_commit_that_a_mirror_has_copied_is_no_workers(broker: Broker, prefix: str) -> None:
    """It is behind the marker, but of other topics: no worker has read the marker yet."""
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=1)
    copied = Committed(1_000, "incarnation=of-the-original;rewind=1000")
    await commit_for_group(
        Connection(broker.bootstrap_servers), f"{prefix}learner", {TopicPartition(names.outcomes, 0): copied}
    )
    undone = await forget(broker, prefix, "ann", "--yes", "--wait", "1")
    assert undone.code == 1, undone
