"""`learner-worker state` on the folders of real workers: looked into, verified, made anew."""

import asyncio
import json
import secrets
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic, RecordsToDelete

from learner_worker.brokers import Broker
from learner_worker.contract.topics import TopicNames
from tests.acceptance.test_refusals import Ended, learner_worker
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

AUCTIONS = 60
SHARDS = 4
ROUNDS = 4
DELETABLE = {"cleanup.policy": "compact,delete", "retention.ms": "-1"}
COMPACTED_SOON = {
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": "0.001",
    "segment.ms": "500",
    "min.compaction.lag.ms": "0",
}


class Replica(NamedTuple):
    """A replica that has learned a history, and was stopped."""

    broker: Broker
    prefix: str
    names: TopicNames
    state_dir: Path
    events: list[model.Event]

    async def state(self, *arguments: str, state_dir: Path | None = None) -> Ended:
        """Runs `learner-worker state`, with Kafka's address for the commands that read there."""
        where = ("--state-dir", str(state_dir or self.state_dir))
        kafka = ("--bootstrap-servers", self.broker.bootstrap_servers, "--topic-prefix", self.prefix)
        return await learner_worker("state", *arguments, *where, *(() if arguments[0] == "show" else kafka))

    async def verdicts(self, state_dir: Path | None = None) -> tuple[int, list[dict[str, Any]]]:
        """The exit code and the verdicts of `state verify`."""
        ended = await self.state("verify", "--json", state_dir=state_dir)
        assert ended.code in {0, 1}, ended.err
        return ended.code, json.loads(ended.out)


@pytest.fixture(scope="module")
def taught(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Replica:
    """A stopped replica that has learned a history, for all tests that leave its topics as they are."""
    folder, prefix = tmp_path_factory.mktemp("taught"), f"t{secrets.token_hex(3)}-"
    return asyncio.run(_taught(broker, prefix, folder, {"cleanup.policy": "compact"}))


@pytest.fixture
def replica(taught: Replica, tmp_path: Path) -> Replica:
    """The same with a copy of its folder: a test may change files."""
    return taught._replace(state_dir=Path(shutil.copytree(taught.state_dir, tmp_path / "state")))


async def _taught(broker: Broker, prefix: str, tmp_path: Path, changelog: dict[str, str]) -> Replica:
    """A replica on a changelog of the given configuration."""
    async with administrator(broker.bootstrap_servers) as admin:
        topic = NewTopic(f"{prefix}learner-outcomes", SHARDS, 1, topic_configs=changelog)
        await admin.create_topics([topic])
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=SHARDS)
    events = swarm_history(11, AUCTIONS)
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "state") as worker:
        await publish(broker.bootstrap_servers, names, events)
        await metrics_equal_the_model(broker, names, events)
        assert await worker.stop() == 0
    return Replica(broker, prefix, names, tmp_path / "state", events)


def left_in(folder: Path) -> list[tuple[str, int]]:
    return sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())


def change(path: Path, statement: str, *parameters: object) -> None:
    """Changes a file behind the learner's back; the statement has to change something."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute(statement, parameters).rowcount > 0, statement


# --- show ---------------------------------------------------------------------------------------------


async def test_show_counts_what_a_stopped_replica_holds_and_touches_nothing(replica: Replica) -> None:
    """Every shard with its counts as the model has them; no file appears, none changes."""
    before = left_in(replica.state_dir)
    shown = await replica.state("show", "--json")
    assert (shown.code, shown.err) == (0, "")
    contents = [shard["contents"] for shard in json.loads(shown.out)["shards"]]
    expected = model.outcomes(replica.events)
    assert len(contents) == SHARDS
    assert sum(held["outcomes"] for held in contents) == len(expected)
    assert sum(held["agents"] for held in contents) == len(model.metrics(expected))
    assert sum(held["metrics_due"] for held in contents) == 0
    assert all(held["positions"].keys() == set(replica.names.subscribed) for held in contents)
    text = await replica.state("show")
    assert f"{sum(held['outcomes'] for held in contents[:1]):,} outcomes" in text.out
    assert left_in(replica.state_dir) == before


async def test_show_looks_at_a_running_worker_which_learns_on(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """While a worker runs, `show` answers again and again, and the worker's checkpoints go on."""
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=SHARDS)
    events = swarm_history(12, AUCTIONS)
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "state") as worker:
        await publish(broker.bootstrap_servers, names, events)
        expected = len(model.outcomes(events))

        async def shown() -> bool:
            ended = await learner_worker("state", "show", "--json", "--state-dir", str(tmp_path / "state"))
            assert ended.code == 0, ended.err
            counts: list[int] = [shard["contents"]["outcomes"] for shard in json.loads(ended.out)["shards"]]
            return sum(counts) == expected

        await until(shown, "show counts all outcomes")
        await metrics_equal_the_model(broker, names, events)
        assert await worker.stop() == 0
    assert outcomes_on_disk(tmp_path / "state") == model.outcomes(events)


# --- verify -------------------------------------------------------------------------------------------


async def test_verify_finds_a_stopped_replica_right_and_touches_nothing(replica: Replica) -> None:
    """Every shard is verified with its outcomes, to the changelog's end; the digests are there to compare."""
    before = left_in(replica.state_dir)
    code, verdicts = await replica.verdicts()
    assert (code, [verdict["verified"] for verdict in verdicts]) == (0, [True] * SHARDS)
    assert sum(verdict["outcomes"] for verdict in verdicts) == len(model.outcomes(replica.events))
    assert len({verdict["digest"] for verdict in verdicts}) == SHARDS
    records = await read_topic(replica.broker.bootstrap_servers, replica.names.outcomes)
    assert sum(verdict["position"] for verdict in verdicts) == len(records)
    one = await replica.state("verify", "--shard", "2")
    assert one.code == 0
    assert one.out.startswith("shard 2: verified: ")
    assert verdicts[2]["digest"] in one.out
    assert left_in(replica.state_dir) == before


async def test_verify_finds_a_running_worker_right_at_every_moment(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Events come in while it verifies, again and again: rows and position always belong together."""
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=SHARDS)
    events = swarm_history(13, 5 * AUCTIONS)
    share = len(events) // ROUNDS + 1
    fast = {"--checkpoint-interval-seconds": "0.05"}
    positions: list[int] = []
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "state", settings=fast) as worker:
        replica = Replica(broker, prefix, names, tmp_path / "state", events)
        for start in range(0, len(events), share):
            _, (code, verdicts) = await asyncio.gather(
                _publish_steadily(replica, events[start : start + share]), replica.verdicts()
            )
            assert code == 0, verdicts
            positions.append(sum(verdict["position"] for verdict in verdicts))
        await metrics_equal_the_model(broker, names, events)
        assert await worker.stop() == 0
    assert len(set(positions)) > 1
    assert outcomes_on_disk(tmp_path / "state") == model.outcomes(events)
    assert (await replica.verdicts())[0] == 0


async def _publish_steadily(replica: Replica, events: list[model.Event]) -> None:
    """In many small portions: a connection each, so that it takes about as long as a verification."""
    for start in range(0, len(events), 10):
        portion = events[start : start + 10]
        await publish(replica.broker.bootstrap_servers, replica.names, portion)


class Damage(NamedTuple):
    """What is changed in a file, and the difference that has to be found."""

    statement: str
    parameters: Callable[["Row"], tuple[object, ...]]
    found: Callable[["Row"], tuple[object, ...]]


class Row(NamedTuple):
    """An outcome of the file with a bid, won and with a keyword."""

    task: str
    agent: str
    bid_sats: int
    won: int
    keyword: str
    wins: int
    failures: int

    @property
    def tally(self) -> dict[str, int]:
        return {"wins": self.wins, "failures": self.failures}


def row_of(path: Path) -> Row:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        found = connection.execute(
            "SELECT o.task_id, o.agent_id, o.bid_sats, a.auctions_won, k.keyword, k.wins, k.failures"
            " FROM outcomes AS o JOIN agents AS a USING (agent_id) JOIN keywords AS k USING (agent_id)"
            " WHERE o.bid_sats IS NOT NULL AND o.winner_agent_id = o.agent_id LIMIT 1"
        ).fetchone()
    return Row(*found)


DAMAGES: dict[str, Damage] = {
    "one altered field": Damage(
        "UPDATE outcomes SET bid_sats = bid_sats + 1 WHERE task_id = ? AND agent_id = ?",
        lambda row: (row.task, row.agent),
        lambda row: (row.task, row.agent, "bid_sats", row.bid_sats + 1, row.bid_sats),
    ),
    "a missing row": Damage(
        "DELETE FROM outcomes WHERE task_id = ? AND agent_id = ?",
        lambda row: (row.task, row.agent),
        lambda row: (row.task, row.agent, "row", "missing", "present"),
    ),
    "a surplus row": Damage(
        "INSERT INTO outcomes (task_id, agent_id, closed_at) VALUES ('no', ?, 5)",
        lambda row: (row.agent,),
        lambda row: ("no", row.agent, "row", "present", "missing"),
    ),
    "a wrong metric": Damage(
        "UPDATE agents SET auctions_won = auctions_won + 2 WHERE agent_id = ?",
        lambda row: (row.agent,),
        lambda row: (None, row.agent, "auctions_won", row.won + 2, row.won),
    ),
    "a metric that is no number": Damage(
        "UPDATE agents SET auctions_won = 'many' WHERE agent_id = ?",
        lambda row: (row.agent,),
        lambda row: (None, row.agent, "auctions_won", "many", row.won),
    ),
    "a missing keyword": Damage(
        "DELETE FROM keywords WHERE agent_id = ? AND keyword = ?",
        lambda row: (row.agent, row.keyword),
        lambda row: (None, row.agent, f"keyword {row.keyword}", {"wins": 0, "failures": 0}, row.tally),
    ),
    "a wrong keyword count": Damage(
        "UPDATE keywords SET wins = wins + 1 WHERE agent_id = ? AND keyword = ?",
        lambda row: (row.agent, row.keyword),
        lambda row: (
            None,
            row.agent,
            f"keyword {row.keyword}",
            {**row.tally, "wins": row.wins + 1},
            row.tally,
        ),
    ),
}


async def test_verify_finds_every_kind_of_damage_and_nothing_else(replica: Replica, tmp_path: Path) -> None:
    """An altered field, a missing and a surplus row, a wrong metric and keyword: each is named, alone."""
    name = "shard-00001.sqlite3"
    row = row_of(replica.state_dir / name)
    for kind, damage in DAMAGES.items():
        shutil.copytree(replica.state_dir, tmp_path / kind)
        change(tmp_path / kind / name, damage.statement, *damage.parameters(row))
    verified = await asyncio.gather(*(replica.verdicts(tmp_path / kind) for kind in DAMAGES))
    for (kind, damage), (code, verdicts) in zip(DAMAGES.items(), verified, strict=True):
        found = [tuple(difference.values()) for difference in verdicts[1]["differences"]]
        assert (kind, code, found) == (kind, 1, [damage.found(row)])
        assert [verdict["verified"] for verdict in verdicts] == [True, False, True, True]
    said = await replica.state("verify", "--shard", "1", state_dir=tmp_path / "one altered field")
    assert said.code == 1
    assert f"task {row.task!r}, agent {row.agent!r}: bid_sats is {row.bid_sats + 1} in the file" in said.out


async def test_verify_lists_the_first_ten_differences_and_counts_all(replica: Replica) -> None:
    """All bids of a shard altered: ten lines, and how many more there are."""
    path = replica.state_dir / "shard-00000.sqlite3"
    change(path, "UPDATE outcomes SET bid_sats = bid_sats + 1 WHERE bid_sats IS NOT NULL")
    with closing(sqlite3.connect(path)) as connection:
        ((altered,),) = connection.execute("SELECT count(*) FROM outcomes WHERE bid_sats IS NOT NULL")
    assert altered > 10
    ended = await replica.state("verify", "--shard", "0")
    assert (ended.code, ended.out.count(": bid_sats is ")) == (1, 10)
    assert f"{altered} differences" in ended.out
    assert f"and {altered - 10} more" in ended.out


async def test_verify_says_what_it_means_when_kafka_lost_the_changelogs_end(replica: Replica) -> None:
    """A position beyond the end: a finding, though no row differs; and no rebuild from what is left."""
    change(
        replica.state_dir / "shard-00003.sqlite3",
        "UPDATE positions SET next_offset = next_offset + 1000 WHERE topic = ?",
        replica.names.outcomes,
    )
    code, verdicts = await replica.verdicts()
    assert (code, verdicts[3]["verified"], verdicts[3]["differences"]) == (1, False, [])
    assert "writes all of its rows into the changelog again" in verdicts[3]["findings"][0]
    refused = await replica.state("rebuild", "--all")
    assert refused.code == 2
    assert "start the worker" in refused.sentence
    assert not list(replica.state_dir.glob("*.replaced"))


async def test_facts_that_only_stand_beyond_the_position_are_no_difference(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """The first half of the facts gone, equal ones beyond the position: no difference, but damage is one."""
    replica = await _taught(broker, prefix, tmp_path, DELETABLE)
    records = await read_topic(broker.bootstrap_servers, replica.names.outcomes)
    await _send_again(replica, records)
    await _drop_first_half(replica, records)
    code, verdicts = await replica.verdicts()
    assert (code, [verdict["verified"] for verdict in verdicts]) == (0, [True] * SHARDS)
    assert all("gone by compaction" in verdict["notes"][0] for verdict in verdicts)
    row = row_of(replica.state_dir / "shard-00001.sqlite3")
    damage = DAMAGES["one altered field"]
    change(replica.state_dir / "shard-00001.sqlite3", damage.statement, *damage.parameters(row))
    code, verdicts = await replica.verdicts()
    found = {(difference["task"], difference["agent"]) for difference in verdicts[1]["differences"]}
    assert (code, (row.task, row.agent) in found) == (1, True)
    assert found <= {(row.task, row.agent), (None, row.agent)}


async def test_verify_finds_rows_whose_facts_are_gone_for_good(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Half of the changelog deleted, no later copies: rows that nothing vouches for are differences."""
    replica = await _taught(broker, prefix, tmp_path, DELETABLE)
    records = await read_topic(broker.bootstrap_servers, replica.names.outcomes)
    await _drop_first_half(replica, records)
    code, verdicts = await replica.verdicts()
    assert (code, [verdict["verified"] for verdict in verdicts]) == (1, [False] * SHARDS)
    assert all(verdict["difference_count"] > 10 for verdict in verdicts)


@pytest.mark.own_kafka
async def test_verify_and_rebuild_see_through_kafkas_compaction(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Kafka compacts away facts the file has read: it is right, and so is one made of what is left."""
    replica = await _taught(broker, prefix, tmp_path, COMPACTED_SOON)
    bootstrap, outcomes = broker.bootstrap_servers, replica.names.outcomes
    records = await read_topic(bootstrap, outcomes)
    await _send_again(replica, records)
    one_each = list({record.partition: record for record in records}.values())

    async def compacted() -> bool:
        await _send_again(replica, one_each)  # segments roll when something is written
        left = await read_topic(bootstrap, outcomes)
        gone = [shard for shard in range(SHARDS) if all(r.offset > 0 for r in left if r.partition == shard)]
        return len(gone) == SHARDS

    await until(compacted, "Kafka compacted every partition", seconds=120)
    before = await replica.verdicts()
    assert (before[0], [verdict["verified"] for verdict in before[1]]) == (0, [True] * SHARDS)
    assert (await replica.state("rebuild", "--all")).code == 0
    after = await replica.verdicts()
    assert after[0] == 0
    assert [_rows(verdict) for verdict in after[1]] == [_rows(verdict) for verdict in before[1]]
    assert outcomes_on_disk(replica.state_dir) == model.outcomes(replica.events)


def _rows(verdict: dict[str, Any]) -> list[Any]:
    return [verdict[name] for name in ("digest", "outcomes", "invisible", "agents")]


async def _send_again(replica: Replica, records: list[Any]) -> None:
    """Writes copies of changelog records to its end."""
    bootstrap = replica.broker.bootstrap_servers
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=5) as producer:
        sends = [
            await producer.send(record.topic, record.value, key=record.key, partition=record.partition)
            for record in records
        ]
        await asyncio.gather(*sends)


async def _drop_first_half(replica: Replica, records: list[Any]) -> None:
    """Removes the first half of every partition of the changelog."""
    counts = [sum(record.partition == shard for record in records) for shard in range(SHARDS)]
    async with administrator(replica.broker.bootstrap_servers) as admin:
        await admin.delete_records(
            {
                TopicPartition(replica.names.outcomes, shard): RecordsToDelete(count // 2)
                for shard, count in enumerate(counts)
            }
        )


async def test_verify_and_rebuild_refuse_a_file_of_another_cluster(replica: Replica) -> None:
    """A file that names another cluster: exit code 2, a sentence, and the file as it was."""
    path = replica.state_dir / "shard-00002.sqlite3"
    change(path, "UPDATE identity SET value = 'elsewhere' WHERE name = 'cluster_id'")
    before = left_in(replica.state_dir)
    for command in (("verify",), ("rebuild", "--all")):
        ended = await replica.state(*command)
        assert ended.code == 2
        assert "belongs to cluster_id 'elsewhere'" in ended.sentence
    assert [name for name, _ in left_in(replica.state_dir)] == [name for name, _ in before]


# --- rebuild ------------------------------------------------------------------------------------------


async def test_a_worker_goes_on_from_rebuilt_files_as_from_a_lost_disk_already_restored(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Stopped half way, rebuilt, run again on the rest: outcomes and metrics equal the model's."""
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=SHARDS)
    events, state_dir = swarm_history(14, 2 * AUCTIONS), tmp_path / "state"
    replica = Replica(broker, prefix, names, state_dir, events)
    half = len(events) // 2
    static = {"--group-instance-id": "one"}
    async with running_worker(broker.bootstrap_servers, prefix, state_dir, settings=static) as worker:
        await publish(broker.bootstrap_servers, names, events[:half])
        await metrics_equal_the_model(broker, names, events[:half])
        assert await worker.stop() == 0
    expected = (await replica.verdicts())[1]
    ended = await replica.state("rebuild", "--all")
    assert ended.code == 0, ended.err
    assert ended.out.count(": rebuilt from ") == SHARDS
    assert ended.out.count(".replaced") == SHARDS
    assert (await replica.verdicts())[1] == expected
    assert not list(state_dir.glob("*.rebuilding*"))
    async with running_worker(broker.bootstrap_servers, prefix, state_dir, settings=static) as worker:
        opened = worker.logged("shard.opened")
        assert [line["restored"] for line in opened] == [True] * SHARDS
        assert all(line["rewound"] for line in opened)
        await publish(broker.bootstrap_servers, names, events[half:])
        await metrics_equal_the_model(broker, names, events)
        assert await worker.stop() == 0
    assert outcomes_on_disk(state_dir) == model.outcomes(events)
    assert (await replica.verdicts())[0] == 0


async def test_rebuild_mends_damage_and_keeps_what_was_there(replica: Replica) -> None:
    """A damaged, an altered and a lost file: each is right afterwards, and the old bytes are still there."""
    damaged, altered, lost = (replica.state_dir / f"shard-{number:05d}.sqlite3" for number in range(3))
    damaged.write_bytes(b"no file of SQLite at all" * 1000)
    damaged.with_name(damaged.name + "-wal").write_bytes(b"a log of nothing" * 100)
    altered.with_suffix(".replaced").write_bytes(b"kept by an earlier rebuild")
    change(altered, "DELETE FROM outcomes")
    lost.unlink()
    shards = [text for shard in ("0", "1", "2") for text in ("--shard", shard)]
    ended = await replica.state("rebuild", *shards)
    assert ended.code == 0, ended.err
    assert (await replica.verdicts())[0] == 0
    assert outcomes_on_disk(replica.state_dir) == model.outcomes(replica.events)
    assert damaged.with_suffix(".replaced").read_bytes().startswith(b"no file of SQLite")
    with closing(sqlite3.connect(altered.with_suffix(".replaced"))) as connection:
        assert connection.execute("SELECT count(*) FROM outcomes").fetchall() == [(0,)]
    assert not lost.with_suffix(".replaced").exists()
    assert "set aside: shard-00000.replaced" in (await replica.state("show")).out


async def test_rebuild_keeps_what_a_killed_worker_left_in_its_log(replica: Replica) -> None:
    """Rows that stood only in the old file's log are in the kept file, and no log meets the new one."""
    path, copy = replica.state_dir / "shard-00001.sqlite3", replica.state_dir / "copy"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO outcomes (task_id, agent_id) VALUES ('only', 'in the log')")
        copy.mkdir()
        for left in replica.state_dir.glob(path.name + "*"):
            shutil.copy(left, copy)
    for left in copy.iterdir():
        left.replace(replica.state_dir / left.name)
    copy.rmdir()
    assert path.with_name(path.name + "-wal").stat().st_size > 0
    code, verdicts = await replica.verdicts()
    assert (code, verdicts[1]["differences"][0]["task"]) == (1, "only")
    assert (await replica.state("rebuild", "--shard", "1")).code == 0
    assert (await replica.verdicts())[0] == 0
    with closing(sqlite3.connect(path.with_suffix(".replaced"))) as connection:
        assert connection.execute("SELECT agent_id FROM outcomes WHERE task_id = 'only'").fetchall()


async def test_rebuild_is_refused_while_a_worker_uses_the_folder(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """The lock is held: exit code 2 and the process that holds it; the worker goes on."""
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=SHARDS)
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "state") as worker:
        replica = Replica(broker, prefix, names, tmp_path / "state", [])
        ended = await replica.state("rebuild", "--all")
        assert ended.code == 2
        assert f"process {worker.process.pid}" in ended.sentence
        assert await worker.stop() == 0


async def test_rebuild_of_a_shard_that_cannot_be_says_how_many_there_are(replica: Replica) -> None:
    """Shard 4 of 4 partitions: exit code 2, and no file of that number; nor one to verify."""
    ended = await replica.state("rebuild", "--shard", str(SHARDS))
    assert ended.code == 2
    assert f"has {SHARDS} partitions" in ended.sentence
    assert not (replica.state_dir / f"shard-{SHARDS:05d}.sqlite3").exists()
    ended = await replica.state("verify", "--shard", str(SHARDS))
    assert (ended.code, f"no file of shard {SHARDS}" in ended.sentence) == (2, True)
