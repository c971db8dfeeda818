"""`doctor` on broken set-ups: each is found, and explained in words."""

import asyncio
import json
import re
import time
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic
from aiokafka.structs import OffsetAndMetadata

from learner_worker.brokers import Broker
from learner_worker.brokers.probing import free_ports
from learner_worker.contract.topics import Topics
from learner_worker.doctor import CHECKS, Level, Report, examine
from learner_worker.doctor.case import Case
from learner_worker.doctor.examination import Check
from learner_worker.doctor.findings import Finding, ok
from learner_worker.errors import RecordError
from learner_worker.kafka.admin import Committed
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.group_offsets import commit_for_group
from learner_worker.kafka.patches import LightRecord
from learner_worker.kafka.records import dead_letter
from learner_worker.settings import load_settings
from tests.acceptance.test_refusals import learner_worker
from tests.integration.test_dead_letters import send
from tests.support.model import AuctionClosed
from tests.support.swarm import swarm_history
from tests.support.workers import administrator, create_topics, publish, running_worker

PARTITIONS = 4


async def examined(tmp_path: Path, servers: str, prefix: str = "", **settings: Any) -> Report:
    """The report on a set-up, with a state folder and a working folder of the test's own."""
    flags = {
        "bootstrap_servers": servers,
        "topic_prefix": prefix,
        "group_id": f"{prefix}learner",
        "state_dir": tmp_path / "state",
        **settings,
    }
    return await examine(load_settings(flags))


def messages(report: Report, check: str, level: Level) -> list[str]:
    """What a check found at a level; every warning and error says what to do, too."""
    found = [finding for name, finding in report.findings if (name, finding.level) == (check, level)]
    assert all(finding.remedy for finding in found if finding.level >= Level.WARNING)
    return [finding.what for finding in found]


def only(report: Report, check: str, level: Level) -> str:
    """The one thing that a check found, and that nothing else is as bad."""
    assert {name for name, finding in report.findings if finding.level >= level} == {check}, report
    (what,) = messages(report, check, level)
    return what


# --- no Kafka there -----------------------------------------------------------------------------------


async def test_a_wrong_port_is_told_from_a_wrong_name(tmp_path: Path) -> None:
    """Nothing listens, or the name does not resolve: an error each; what needs Kafka is left out."""
    (port,) = free_ports(1)
    report = await examined(tmp_path, f"127.0.0.1:{port},no-such-host.invalid:9092")
    closed, unknown = messages(report, "addresses", Level.ERROR)
    assert closed == f"nothing listens at 127.0.0.1:{port}"
    assert unknown == "this machine cannot resolve the name no-such-host.invalid"
    assert report.exit_code == 2
    (left_out,) = messages(report, "not checked", Level.NOTE)
    assert "topics" in left_out
    assert messages(report, "state folder", Level.NOTE)


async def test_one_dead_address_of_two_is_a_warning(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """One address works: the other is a warning, and everything is checked."""
    await create_topics(broker.bootstrap_servers, prefix)
    (port,) = free_ports(1)
    report = await examined(tmp_path, f"127.0.0.1:{port},{broker.bootstrap_servers}", prefix)
    assert only(report, "addresses", Level.WARNING) == f"nothing listens at 127.0.0.1:{port}"
    assert report.exit_code == 1
    assert not messages(report, "not checked", Level.NOTE)


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """A server that gives everybody the same answer."""

    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(answered, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "a web server answers"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "says b'SSH-2.0-OpenSSH_9.6"),
        (b"", "says nothing"),
    ],
)
async def test_a_port_of_something_else_is_told(tmp_path: Path, answer: bytes, words: str) -> None:
    """A web server, another protocol, silence: an error that says what answered."""
    async with answering(answer) as address:
        report = await examined(tmp_path, address)
    assert words in only(report, "listener", Level.ERROR)


# --- this machine ---------------------------------------------------------------------------------------


async def test_a_state_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    """A file in the folder's place, or above it: an error, for root too."""
    (tmp_path / "file").write_text("")
    for path, words in ((tmp_path / "file", "is a file"), (tmp_path / "file" / "state", "cannot be made")):
        report = await examined(tmp_path, "127.0.0.1:1", state_dir=path)
        (what,) = messages(report, "state folder", Level.ERROR)
        assert words in what


async def test_state_files_in_use_damaged_and_of_another_prefix_are_told(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """A running worker's folder names its process; afterwards a damaged file and a foreign one are errors."""
    await create_topics(broker.bootstrap_servers, prefix, partitions=PARTITIONS)
    await create_topics(broker.bootstrap_servers, f"{prefix}other-", partitions=PARTITIONS)
    state_dir = tmp_path / "state"
    async with running_worker(broker.bootstrap_servers, prefix, state_dir) as worker:
        running = await examined(tmp_path, broker.bootstrap_servers, prefix)
        assert running.exit_code == 0, running
        assert any(
            f"process {worker.process.pid}" in what for what in messages(running, "state folder", Level.NOTE)
        )
        assert "1 members" in " ".join(messages(running, "group", Level.OK))
        assert await worker.stop() == 0
    before = listing(state_dir)
    still = await examined(tmp_path, broker.bootstrap_servers, prefix)
    assert messages(still, "state files", Level.OK) == ["4 shard files are whole and belong here"]
    assert listing(state_dir) == before

    with (state_dir / "shard-00001.sqlite3").open("r+b") as file:
        file.write(b"no database, but long enough to be one")
    foreign = await examined(tmp_path, broker.bootstrap_servers, f"{prefix}other-")
    errors = messages(foreign, "state files", Level.ERROR)
    assert len([what for what in errors if f"belongs to topic_prefix '{prefix}'" in what]) == 3
    assert len([what for what in errors if "shard-00001.sqlite3 cannot be read" in what]) == 1


def listing(folder: Path) -> list[tuple[str, int, int]]:
    """Every file with its size and time of change."""
    found = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()]
    return sorted(found)


# --- topics ---------------------------------------------------------------------------------------------


async def test_missing_topics_are_named_and_none_is_made(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """No topics: an error that names them; afterwards there is still none, also where Kafka makes them."""
    report = await examined(tmp_path, broker.bootstrap_servers, prefix)
    what = only(report, "topics", Level.ERROR)
    assert all(name in what for name in Topics(prefix=prefix).named().all)
    async with administrator(broker.bootstrap_servers) as admin:
        assert [name for name in await admin.list_topics() if name.startswith(prefix)] == []
        groups = [name for name, *_ in await admin.list_consumer_groups()]
        assert [name for name in groups if name.startswith(prefix)] == []
    assert not (tmp_path / "state").exists()


async def make_topics(broker: Broker, *topics: NewTopic) -> None:
    async with administrator(broker.bootstrap_servers) as admin:
        await admin.create_topics(list(topics))


async def test_unequal_partition_counts_are_listed(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """One topic with other partitions: an error with every count."""
    names = Topics(prefix=prefix).named()
    rest = [NewTopic(name, 3, 1, topic_configs=names.configuration(name)) for name in names.all[1:]]
    await make_topics(broker, NewTopic(names.bid_placed, 2, 1), *rest)
    report = await examined(tmp_path, broker.bootstrap_servers, prefix)
    what = only(report, "topics", Level.ERROR)
    assert f"{names.bid_placed} has 2" in what
    assert f"{names.requests} has 3" in what


async def test_topics_that_are_kept_wrongly_are_told(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """Outcomes that Kafka deletes, bids that it compacts or forgets too soon, wrong times, little room."""
    names = Topics(prefix=prefix).named()
    wrong = {
        names.outcomes: {"cleanup.policy": "delete", "min.compaction.lag.ms": "0"},
        names.bid_placed: {"cleanup.policy": "compact"},
        names.auction_closed: {"retention.ms": "60000"},
        names.requests: {},
        names.rerouted: {"message.timestamp.type": "LogAppendTime", "max.message.bytes": "2097152"},
    }
    await make_topics(
        broker,
        *(
            NewTopic(name, 2, 1, topic_configs=wrong.get(name, names.configuration(name)))
            for name in names.all
        ),
    )
    report = await examined(tmp_path, broker.bootstrap_servers, prefix)
    errors = messages(report, "configuration", Level.ERROR)
    assert [what.split(":")[0] for what in errors] == [
        f"{names.outcomes} has cleanup.policy=delete",
        f"{names.bid_placed} has cleanup.policy=compact",
        f"{names.rerouted} replaces timestamps",
        f"{names.auction_closed} is kept for 60 s, the auction horizon is 3600 s",
    ]
    warnings = messages(report, "configuration", Level.WARNING)
    assert [what.split(":")[0] for what in warnings] == [
        f"{names.outcomes} has min.compaction.lag.ms=0",
        f"{names.requests} keeps the agents' own times",
        f"{names.requests} takes records of 1048588 bytes at most, and a moved request may have 2097152",
    ]
    assert report.exit_code == 2


# --- what flows -----------------------------------------------------------------------------------------


async def test_events_on_wrong_partitions_are_counted_and_their_cause_is_told(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Bids hashed by CRC32, closes without keys: a warning each that says so; results lie right.

    Three closes do not say what the winner bid: a note.
    """
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=PARTITIONS)
    events = swarm_history(21, 40)
    bids = [event for event in events if type(event).__name__ == "BidPlaced"]
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for bid in bids:
            key = bid.task_id.encode()
            at = zlib.crc32(key) % PARTITIONS
            await producer.send(names.bid_placed, bid.to_json(), key=key, partition=at)
    closes = [event for event in events if isinstance(event, AuctionClosed)]
    sold = [replace(close, winning_bid_sats=900) for close in closes if close.winner_agent_id is not None]
    silent = [replace(close, winning_bid_sats=None) for close in sold[:3]]
    unsold = [close for close in closes if close.winner_agent_id is None]
    await publish(broker.bootstrap_servers, names, [*unsold, *silent, *sold[3:]], keyed=False)
    await publish(broker.bootstrap_servers, names, [one for one in events if one not in {*bids, *closes}])
    report = await examined(tmp_path, broker.bootstrap_servers, prefix)
    crc32, keyless = messages(report, "partitioning", Level.WARNING)
    assert f"of the newest {len(bids)} records of {names.bid_placed}" in crc32
    assert "hashes keys by CRC32" in crc32
    assert f"of {names.auction_closed}" in keyless
    assert "have no key" in keyless
    (prices,) = messages(report, "prices", Level.NOTE)
    assert f"3 of the newest {len(sold)} closes with a winner do not say winning_bid_sats" in prices


async def test_open_dead_letters_are_counted_until_they_are_handled(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Three letters: a warning with their reasons; dropped, there is none."""
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=PARTITIONS)
    errors = [RecordError("invalid", "bad"), RecordError("invalid", "bad"), RecordError("empty", "nothing")]
    found = [LightRecord(names.bid_placed, 0, at, 0, b"k", b"v") for at in range(3)]
    await send(
        broker,
        [dead_letter(one, names.dead_letters, why) for one, why in zip(found, errors, strict=True)],
    )
    report = await examined(tmp_path, broker.bootstrap_servers, prefix)
    what = only(report, "dead letters", Level.WARNING)
    assert "at least 3 dead letters of the last day are open" in what
    assert f"2 x invalid in {names.bid_placed}, 1 x empty" in what
    dropped = await learner_worker(
        *("dead-letters", "drop", "--all-matching", "--yes"),
        *("--bootstrap-servers", broker.bootstrap_servers, "--topic-prefix", prefix),
    )
    assert dropped.code == 0, dropped.err
    assert (await examined(tmp_path, broker.bootstrap_servers, prefix)).worst <= Level.NOTE


async def test_a_group_that_nobody_reads_for_is_told_with_its_lag(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Committed once, then events without a member: an error with what waits, by topic."""
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=PARTITIONS)
    group = f"{prefix}learner"
    partitions = [TopicPartition(name, at) for name in names.subscribed for at in range(PARTITIONS)]
    async with AIOKafkaConsumer(
        bootstrap_servers=broker.bootstrap_servers, group_id=group, enable_auto_commit=False
    ) as consumer:
        consumer.assign(partitions)
        await consumer.commit({partition: OffsetAndMetadata(0, "") for partition in partitions})
    quiet = await examined(tmp_path, broker.bootstrap_servers, prefix)
    assert quiet.worst == Level.NOTE
    bids = [event for event in swarm_history(22, 20) if type(event).__name__ == "BidPlaced"]
    await publish(broker.bootstrap_servers, names, bids)
    report = await examined(tmp_path, broker.bootstrap_servers, prefix)
    what = only(report, "group", Level.ERROR)
    assert "no member reads" in what
    assert f"{names.bid_placed} {len(bids)}" in what


async def test_commits_that_a_mirror_has_copied_count_as_none(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """They name the original's incarnation: a worker would begin at the start, and so does the lag."""
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=PARTITIONS)
    copied = Committed(7, "incarnation=of-the-original;rewind=7")
    await commit_for_group(
        Connection(broker.bootstrap_servers),
        f"{prefix}learner",
        {TopicPartition(names.bid_placed, 0): copied},
    )
    report = await examined(tmp_path, broker.bootstrap_servers, prefix)
    found = [finding.what for name, finding in report.findings if name == "group"]
    assert found == [f"no worker has ever run in the group {prefix}learner"]


async def test_a_publishers_clock_ahead_of_this_one_is_told(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """A record from a minute ahead: a warning with how much."""
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=PARTITIONS)
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        sent = time.time()
        ahead = round(sent * 1000) + 60_000
        await producer.send_and_wait(names.bid_placed, b"{}", timestamp_ms=ahead)
    report = await examined(tmp_path, broker.bootstrap_servers, prefix)
    what = only(report, "clocks", Level.WARNING)
    found = re.match(r"a publisher's clock is at least ([0-9.]+) s ahead", what)
    assert found is not None, what
    passed = time.time() - sent
    assert 60 - passed - 0.1 <= float(found[1]) <= 60  # rounded to a tenth


# --- the command and the table --------------------------------------------------------------------------


async def test_the_command_prints_findings_and_ends_by_the_worst(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """All well: exit code 0. Topics missing: 2, in words with the remedy, and as JSON."""
    flags = ("--bootstrap-servers", broker.bootstrap_servers, "--topic-prefix", prefix)
    state = ("--state-dir", str(tmp_path / "state"))
    missing = await learner_worker("doctor", *flags, *state, "--quiet")
    assert missing.code == 2
    assert "ERROR    topics: missing topics" in missing.out
    assert "-> create them with `learner-worker topics create`" in missing.out
    await create_topics(broker.bootstrap_servers, prefix)
    well = await learner_worker("doctor", *flags, *state)
    assert (well.code, well.out.splitlines()[-1], well.err) == (0, "all well", "")
    as_json = await learner_worker("doctor", *flags, *state, "--json")
    found = json.loads(as_json.out)
    assert {one["check"] for one in found} == {check.name for check in CHECKS}
    assert all(set(one) == {"check", "level", "what", "remedy"} for one in found)


async def test_a_check_that_fails_or_hangs_hides_no_other(tmp_path: Path) -> None:
    """One raises, one never ends: an error each, and the third is asked all the same."""

    async def raises(_case: Case) -> Sequence[Finding]:
        raise KeyError("surprise")

    async def hangs(_case: Case) -> Sequence[Finding]:
        await asyncio.Event().wait()
        return []

    async def works(_case: Case) -> Sequence[Finding]:
        return [ok("fine")]

    checks = [Check("raises", raises, needs_kafka=False), Check("hangs", hangs), Check("works", works)]
    settings = load_settings({"bootstrap_servers": "127.0.0.1:1"})
    report = await examine(settings, checks=checks, check_seconds=0.2)
    assert messages(report, "raises", Level.ERROR) == ["could not be checked (KeyError: 'surprise')"]
    assert messages(report, "hangs", Level.ERROR) == ["no answer within 0.2 s"]
    assert messages(report, "works", Level.OK) == ["fine"]
