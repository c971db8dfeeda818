"""Topics that were grown, copied, created anew or are another group's: refused in one sentence each."""

import asyncio
import contextlib
import itertools
import json
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from learner_worker.brokers import Broker
from learner_worker.client import LearnerClient
from learner_worker.contract.facts import Bid, Close, Fact, Result, encode_fact
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName, TopicNames, Topics
from learner_worker.contract.topology import decode_topology
from learner_worker.doctor import Level
from learner_worker.kafka.admin import connected
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.partitioner import partitioner
from learner_worker.kafka.topology_topic import append
from tests.acceptance.test_refusals import Ended, learner_worker
from tests.integration.test_doctor import examined, messages
from tests.integration.test_whole_way import metrics_equal_the_model
from tests.support import model
from tests.support.swarm import swarm_history
from tests.support.workers import (
    WorkerProcess,
    create_topics,
    latest_metrics,
    outcomes_on_disk,
    publish,
    read_topic,
    reading,
    running_worker,
    until,
)

SHARDS, GROWN = 12, 24
NOTICED_SECONDS = 30.0  # ten until the next look, and the rest for a machine that is busy
GROWN_WORDS = f"records {SHARDS} partitions, but all sharded topics have {GROWN} now"


@asynccontextmanager
async def administrator(broker: Broker) -> AsyncIterator[Any]:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def raise_counts(broker: Broker, topics: Sequence[TopicName]) -> None:
    """What `kafka-topics --alter --partitions` does."""
    async with administrator(broker) as admin:
        answer = await admin.create_partitions({topic: NewPartitions(GROWN) for topic in topics})
    assert {code for _, code, *_ in answer.topic_errors} == {0}


async def topics_of_an_older_version(broker: Broker, prefix: str, partitions: int = SHARDS) -> TopicNames:
    """All topics but the record's."""
    names = Topics(prefix=prefix).named()
    older = [name for name in names.all if name != names.topology]
    async with connected(Connection(broker.bootstrap_servers), patience_seconds=30) as cluster:
        await cluster.create_topics(names, partitions=partitions, replication_factor=1, only=older)
    return names


async def command(broker: Broker, prefix: str, *words: str, group: str | None = None) -> Ended:
    """A command of an operator who gives the address and the prefix."""
    flags = ("--bootstrap-servers", broker.bootstrap_servers, "--topic-prefix", prefix)
    return await learner_worker(*words, *flags, *(("--group-id", group) if group else ()))


async def started(broker: Broker, prefix: str, folder: Path, group: str | None = None) -> Ended:
    """A worker that does not get far."""
    state = ("--state-dir", str(folder), "--log-format", "json")
    return await command(broker, prefix, "run", *state, group=group or f"{prefix}learner")


async def ended(worker: WorkerProcess) -> tuple[int, str]:
    """The exit code and the sentence of a worker that is to end by itself."""
    code = await asyncio.wait_for(worker.process.wait(), NOTICED_SECONDS)
    lines = worker.log_path.read_text().splitlines()
    (sentence,) = [line for line in lines if not line.startswith("{")]
    return code, sentence


def has_identity(path: Path) -> bool:
    """Whether a shard's file got as far as saying whose it is."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        tables = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'identity'").fetchall()
    return bool(tables) and "incarnation" in whose(path)


def whose(path: Path) -> dict[str, str]:
    """What a shard's file says of itself."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return dict(database.execute("SELECT name, value FROM identity"))


def forget_the_incarnation(folder: Path) -> None:
    """Makes the files of a folder an older version's."""
    for path in folder.glob("shard-*.sqlite3"):
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute("DELETE FROM identity WHERE name IN ('incarnation', 'generation')")


# --- grown topics ---------------------------------------------------------------------------------


async def test_topics_raised_under_live_workers_are_refused_and_no_number_changes(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Twelve partitions become twenty-four while two workers live.

    Both stop with the sentence; a fresh folder, the old ones, `topics create` and `check`, `state verify`
    and `outcomes` refuse with the same one; doctor names it and blames no publisher. Every metrics record and
    every outcome on disk is what it was. `reshard` then takes over the topics as they are.
    """
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=SHARDS)
    events = swarm_history(41, 60)
    async with (
        running_worker(broker.bootstrap_servers, prefix, tmp_path / "a") as first,
        running_worker(broker.bootstrap_servers, prefix, tmp_path / "b") as second,
    ):
        await publish(broker.bootstrap_servers, names, events)
        await metrics_equal_the_model(broker, names, events)
        await raise_counts(broker, names.sharded)
        for worker in (first, second):
            code, sentence = await ended(worker)
            assert code == 2, sentence
            assert GROWN_WORDS in sentence
            assert "keep every state folder" in sentence
            assert "another --state-dir" not in sentence
    metrics = await latest_metrics(broker.bootstrap_servers, names)
    outcomes = [outcomes_on_disk(tmp_path / folder) for folder in ("a", "b")]

    for folder in ("fresh", "a", "b"):
        refused = await started(broker, prefix, tmp_path / folder)
        assert (refused.code, GROWN_WORDS in refused.sentence) == (2, True), refused
    assert not list((tmp_path / "fresh").glob("shard-*"))
    for words in (
        ("topics", "check"),
        ("topics", "create"),
        ("topics", "create", "--partitions", str(GROWN)),
        ("state", "verify", "--state-dir", str(tmp_path / "a")),
        ("state", "rebuild", "--all", "--state-dir", str(tmp_path / "a")),
        ("outcomes", "list", next(iter(metrics))),
        ("forget", next(iter(metrics)), "--yes", "--wait", "0"),
        ("dead-letters", "replay"),
    ):
        refused = await command(broker, prefix, *words)
        assert (refused.code, GROWN_WORDS in refused.sentence) == (2, True), (words, refused)

    report = await examined(tmp_path, broker.bootstrap_servers, prefix, state_dir=tmp_path / "a")
    assert report.exit_code == 2
    assert GROWN_WORDS in messages(report, "topology", Level.ERROR)[0]
    assert messages(report, "partitioning", Level.WARNING) == []
    assert not any("CRC32" in finding.what for _, finding in report.findings)
    assert messages(report, "state files", Level.ERROR) == []

    assert await latest_metrics(broker.bootstrap_servers, names) == metrics
    assert [outcomes_on_disk(tmp_path / folder) for folder in ("a", "b")] == outcomes
    assert len(await read_topic(broker.bootstrap_servers, names.topology)) == 2

    resharded = await command(broker, prefix, "reshard", "--partitions", str(GROWN), "--yes")
    assert resharded.code == 0, resharded
    late = swarm_history(46, 20)
    await publish(broker.bootstrap_servers, names, late)
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "a") as worker:
        await metrics_equal_the_model(broker, names.of_layout(2), [*events, *late])
        assert await worker.stop() == 0


async def test_raised_topics_are_created_again_with_the_recorded_count(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """The way back, as docs/operating.md has it: the raised topics are deleted and created again.

    The worker writes outcomes and metrics again from its folder; the events are published again when it is
    ready, and nothing is lost or counts twice. One worker has all shards: the embedded broker may keep a
    group waiting that a second one joins while the first has something to commit.
    """
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=SHARDS)
    events = swarm_history(44, 60)
    half = len(events) // 2
    await publish(broker.bootstrap_servers, names, events[:half])
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "a") as worker:
        await metrics_equal_the_model(broker, names, events[:half])
        await raise_counts(broker, names.sharded)
        await publish(broker.bootstrap_servers, names, events[half:])
        assert (await ended(worker))[0] == 2
    metrics = await latest_metrics(broker.bootstrap_servers, names)

    async with administrator(broker) as admin:
        await admin.delete_topics(list(names.sharded))
        await until_deleted(broker, names.sharded)
    created = await command(broker, prefix, "topics", "create")
    assert created.code == 0, created.err
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "a") as worker:
        await metrics_become(broker, names, metrics)
        await publish(broker.bootstrap_servers, names, events)
        await metrics_equal_the_model(broker, names, events)
        assert await worker.stop() == 0
    assert (await command(broker, prefix, "topics", "check")).code == 0


async def until_deleted(broker: Broker, topics: Sequence[TopicName]) -> None:
    """Kafka deletes topics in its own time."""

    async def gone() -> bool:
        async with connected(Connection(broker.bootstrap_servers), patience_seconds=30) as cluster:
            return await cluster.partitions(topics) == {}

    await until(gone, "the topics are deleted")


async def metrics_become(broker: Broker, names: TopicNames, expected: dict[str, dict[str, Any]]) -> None:
    """Waits until every agent has the record that it had; the offsets that records cover are new."""

    async def same() -> bool:
        found = await metrics.latest()
        offsets = {"outcome_offset": 0}
        return {agent: one | offsets for agent, one in found.items()} == {
            agent: one | offsets for agent, one in expected.items()
        }

    async with reading(broker.bootstrap_servers, names.metrics) as metrics:
        await until(same, "the metrics are what they were")


async def test_one_raised_topic_is_enough(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """The requests alone were raised: agents would be asked for on partitions that nobody reads."""
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=2)
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "a") as worker:
        await raise_counts(broker, [names.requests])
        code, sentence = await ended(worker)
    assert code == 2
    assert f"records 2 partitions, but {names.requests} has {GROWN} now" in sentence


async def test_a_changelog_that_was_grown_before_there_was_a_record_is_not_adopted(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """An older version's topics, raised: neither `run` nor `topics create` records the new count.

    The sentence names the older count and an agent; doctor finds it and blames no publisher.
    """
    names = await topics_of_an_older_version(broker, prefix)
    events = swarm_history(42, 40)
    await publish(broker.bootstrap_servers, names, events)
    await write_facts(broker, names, SHARDS)
    await raise_counts(broker, names.sharded)
    for refused in (
        await started(broker, prefix, tmp_path / "fresh"),
        await command(broker, prefix, "topics", "create"),
        await command(broker, prefix, "outcomes", "list", "agent-1"),
    ):
        assert refused.code == 2, refused
        assert f"{names.outcomes} has {GROWN} partitions, but" in refused.sentence
        assert f"grown from {SHARDS} partitions" in refused.sentence
        assert "keep every state folder" in refused.sentence
    assert not list((tmp_path / "fresh").glob("shard-*"))
    check = await command(broker, prefix, "topics", "check")
    assert check.code == 2
    assert names.topology in check.sentence

    report = await examined(tmp_path, broker.bootstrap_servers, prefix)
    assert f"grown from {SHARDS} partitions" in messages(report, "changelog", Level.ERROR)[0]
    assert "holds no record" in messages(report, "topology", Level.WARNING)[0]
    (bids, *_) = messages(report, "partitioning", Level.WARNING)
    assert f"the topic had {SHARDS} partitions when they were written" in bids
    assert not any("CRC32" in finding.what for _, finding in report.findings)


async def write_facts(broker: Broker, names: TopicNames, partitions: int) -> None:
    """A won and completed task of each of a hundred agents, where a learner with a partition count has it."""
    partition_of = partitioner(partitions)
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for number in range(100):
            agent = AgentId(f"agent-{number}")
            fact = Fact(
                TaskId(f"t-{number}"),
                agent,
                Close(Micros(2), winner=agent, winning_bid_sats=7),
                Bid(Micros(1), 7, "fix the parser"),
                Result(Micros(3), succeeded=True),
            )
            key, value = encode_fact(fact)
            await producer.send(names.outcomes, value, key=key, partition=partition_of(agent))


async def test_a_folder_of_another_count_keeps_a_grown_count_from_being_adopted(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """The changelog is empty, but this worker's own files were written for fewer partitions."""
    names = await topics_of_an_older_version(broker, prefix, partitions=2)
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "a") as worker:
        assert await worker.stop() == 0
    forget_the_incarnation(tmp_path / "a")
    async with administrator(broker) as admin:
        await admin.delete_topics([names.topology])
    await raise_counts(broker, names.sharded)
    refused = await started(broker, prefix, tmp_path / "a")
    assert refused.code == 2
    assert f"was written for 2 partitions, the topics have {GROWN}" in refused.sentence
    async with connected(Connection(broker.bootstrap_servers), patience_seconds=30) as cluster:
        assert await cluster.partitions([names.topology]) == {}


async def test_verify_finds_records_of_agents_that_belong_elsewhere(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Somebody recorded the wrong count after all: file and changelog agree, and verify still says no."""
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=GROWN)
    await write_facts(broker, names, SHARDS)
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "a") as worker:
        assert await worker.stop() == 0
    verified = await command(broker, prefix, "state", "verify", "--state-dir", str(tmp_path / "a"))
    assert verified.code == 1
    assert "changelog records are about agents that belong to other shards" in verified.out
    assert "0 differences" in verified.out


# --- topics of an older version -------------------------------------------------------------------


async def test_topics_and_files_of_an_older_version_are_adopted(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Nine topics, files without an incarnation: `run` records the count and its group, files gain both."""
    names = await topics_of_an_older_version(broker, prefix, partitions=4)
    events = swarm_history(43, 40)
    await publish(broker.bootstrap_servers, names, events)
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "a") as worker:
        await metrics_equal_the_model(broker, names, events)
        assert await worker.stop() == 0
    forget_the_incarnation(tmp_path / "a")
    async with administrator(broker) as admin:
        await admin.delete_topics([names.topology])
    metrics = await latest_metrics(broker.bootstrap_servers, names)

    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "a") as worker:
        (adopted,) = worker.logged("topology.adopted")
        assert (adopted["shards"], adopted["owner_group"]) == (4, f"{prefix}learner")
        assert {record["restore_records"] for record in worker.logged("shard.opened")} == {0}
        async with LearnerClient(broker.bootstrap_servers, topics=Topics(prefix=prefix)) as learner:
            for agent_id, record in metrics.items():
                reply = await learner.suggest_bid(agent_id, description="fix it", base_bid_sats=100)
                assert reply.metrics.total_bids == record["total_bids"]
        assert await worker.stop() == 0
    for path in (tmp_path / "a").glob("shard-*.sqlite3"):
        assert whose(path)["incarnation"] == adopted["incarnation"]
        assert whose(path)["generation"] == "1"
    assert (await command(broker, prefix, "topics", "check")).out == (
        f"all topics are there, with 4 shards, of group {prefix}learner\n"
    )


async def test_workers_that_adopt_at_once_obey_one_record(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Three start on topics of an older version: all work, on one incarnation, whichever was first."""
    names = await topics_of_an_older_version(broker, prefix, partitions=4)
    async with contextlib.AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(
                running_worker(broker.bootstrap_servers, prefix, tmp_path / name, wait=False)
            )
            for name in ("a", "b", "c")
        ]
        await asyncio.gather(*(worker.ready() for worker in workers))
        for worker in workers:
            assert await worker.stop() == 0
    records = await read_topic(broker.bootstrap_servers, names.topology)
    assert 1 <= len(records) <= len(workers)
    assert len({record.key for record in records}) == len(records)
    files = [path for name in ("a", "b", "c") for path in (tmp_path / name).glob("shard-*.sqlite3")]
    opened = [
        path for path in files if has_identity(path)
    ]  # a shard that moves on at once leaves an empty file
    assert len(opened) >= 4
    assert len({whose(path)["incarnation"] for path in opened}) == 1


# --- whose topics these are -----------------------------------------------------------------------


async def test_another_group_is_refused(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """The first group that runs owns the topics; `topics check` and doctor say so of another, too."""
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=2)
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "a") as worker:
        refused = await started(broker, prefix, tmp_path / "other", "another-group")
        assert refused.code == 2
        words = f"these topics belong to group '{prefix}learner' ({names.topology}), this group is 'another-"
        assert words in refused.sentence
        check = await command(broker, prefix, "topics", "check", group="another-group")
        assert (check.code, words in check.sentence) == (2, True)
        report = await examined(tmp_path, broker.bootstrap_servers, prefix, group_id="another-group")
        assert words in messages(report, "topology", Level.ERROR)[0]
        assert (await command(broker, prefix, "topics", "check", group=f"{prefix}learner")).code == 0
        assert await worker.stop() == 0


async def test_a_group_that_takes_over_begins_where_the_other_one_ended(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """`run --take-over` under load: the old worker ends by itself, no event is lost, one reply a request.

    The new group has a folder of its own, so all that it knows of positions are the commits that it copied.
    The old worker's session outlasts the test: it has left its group.
    """
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=4)
    events = swarm_history(45, 60)
    half = len(events) // 2
    settings = {"--group-instance-id": "one", "--session-timeout-seconds": "600"}
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "a", settings=settings) as old:
        await publish(broker.bootstrap_servers, names, events[:half])
        await metrics_equal_the_model(broker, names, events[:half])
        asked = asyncio.create_task(asking(broker, names))
        async with running_worker(
            broker.bootstrap_servers,
            prefix,
            tmp_path / "b",
            settings={"--group-id": f"{prefix}new"},
            flags=("--take-over",),
        ) as new:
            code, sentence = await ended(old)
            assert (code, f"group {prefix}new has taken these topics over" in sentence) == (2, True), sentence
            await publish(broker.bootstrap_servers, names, events[half:])
            await metrics_equal_the_model(broker, names, events)
            asked.cancel()
            (inherited,) = new.logged("topology.inherited")
            assert inherited["origin"] == f"{prefix}learner"
            refused = await started(broker, prefix, tmp_path / "a")
            assert (refused.code, f"belong to group '{prefix}new'" in refused.sentence) == (2, True)
            assert await new.stop() == 0
    replies = Counter(
        bytes(record.key) for record in await read_topic(broker.bootstrap_servers, names.replies)
    )
    assert replies
    assert set(replies.values()) == {1}
    read_again = [one for one in new.logged("shard.opened") if one["rewound"]]
    assert read_again
    async with running_worker(
        broker.bootstrap_servers, prefix, tmp_path / "a", settings={"--group-id": f"{prefix}new"}
    ) as renamed:
        assert await renamed.stop() == 0  # the old folder is the new group's as well
    assert len(await read_topic(broker.bootstrap_servers, names.topology)) == 4


async def test_a_copy_of_the_cluster_is_taken_over_by_the_same_group(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """The record was written elsewhere, and the group's commits, copied with it, mean nothing here.

    `run` refuses; with `--take-over` and an empty folder every event is read from the start, and counts once.
    """
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=2)
    events = swarm_history(46, 40)
    await publish(broker.bootstrap_servers, names, events)
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "a") as worker:
        await metrics_equal_the_model(broker, names, events)
        assert await worker.stop() == 0
    (*_, last) = await read_topic(broker.bootstrap_servers, names.topology)
    elsewhere = msgspec.structs.replace(decode_topology(last.value), cluster_id="elsewhere", generation=9)
    await append(Connection(broker.bootstrap_servers), names.topology, elsewhere)
    refused = await started(broker, prefix, tmp_path / "b")
    assert (refused.code, "run --take-over" in refused.sentence) == (2, True), refused

    async with running_worker(
        broker.bootstrap_servers, prefix, tmp_path / "b", flags=("--take-over",)
    ) as worker:
        (taken,) = worker.logged("topology.taken_over")
        assert (taken["generation"], taken["taken_from"]["cluster_id"]) == (10, "elsewhere")
        assert all(one["rewound"] for one in worker.logged("shard.opened"))
        await metrics_equal_the_model(broker, names, events)
        assert await worker.stop() == 0
    assert outcomes_on_disk(tmp_path / "b") == model.outcomes(events)
    old = await started(broker, prefix, tmp_path / "a")
    assert (old.code, "was written for other topics of the same names" in old.sentence) == (2, True), old


async def asking(broker: Broker, names: TopicNames) -> None:
    """Requests without end, each with a key of its own; the contract's replies carry it."""
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for number in itertools.count():
            agent = AgentId(f"agent-{number % 40}")
            body = {"agent_id": agent, "base_bid_sats": 100, "description": "fix it"}
            partition = partitioner(4)(agent)
            await producer.send_and_wait(
                names.requests, json.dumps(body).encode(), key=str(number).encode(), partition=partition
            )
            await asyncio.sleep(0.02)


async def test_a_group_named_at_creation_owns_the_topics(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """`topics create --group-id`: nobody else comes first."""
    created = await command(broker, prefix, "topics", "create", "--partitions", "2", group="wanted")
    assert created.code == 0, created.err
    refused = await started(broker, prefix, tmp_path / "a")
    assert refused.code == 2
    assert "belong to group 'wanted'" in refused.sentence


async def test_topics_are_created_with_one_count_for_life(broker: Broker, prefix: str) -> None:
    """Another count is refused, before anything is created; without one the topics' own is taken."""
    names = Topics(prefix=prefix).named()
    assert (await command(broker, prefix, "topics", "create", "--partitions", "3")).code == 0
    async with administrator(broker) as admin:
        await admin.delete_topics([names.replies])
    other = await command(broker, prefix, "topics", "create", "--partitions", "4")
    assert other.code == 2
    assert f"{names.topology} records 3 partitions, not 4" in other.sentence
    again = await command(broker, prefix, "topics", "create")
    assert (again.code, f"{names.replies}: created" in again.out) == (0, True)
    async with connected(Connection(broker.bootstrap_servers), patience_seconds=30) as cluster:
        counts = await cluster.partitions(names.all)
    assert counts == {**dict.fromkeys(names.all, 3), names.topology: 1}


async def test_topics_created_anew_are_refused_by_workers_and_files(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """All topics were deleted and created again under a live worker: it stops, and its folder is refused."""
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=2)
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "a") as worker:
        async with administrator(broker) as admin:
            await admin.delete_topics([names.topology])
        await create_topics(broker.bootstrap_servers, prefix, partitions=2)
        code, sentence = await ended(worker)
    assert code == 2
    assert "the topics were deleted and created anew" in sentence
    refused = await started(broker, prefix, tmp_path / "a")
    assert refused.code == 2
    assert "was written for other topics of the same names" in refused.sentence
