"""A shard's file on a real disk: what comes back, what is set aside, what a failure leaves."""

import asyncio
import itertools
import random
import shutil
import sqlite3
import threading
from collections import Counter
from collections.abc import MutableMapping, Sequence
from contextlib import closing
from pathlib import Path

import aiosqlite
import pytest

from learner_worker.contract.facts import Bid, Close, Result
from learner_worker.contract.fields import MAX_SATS, AgentId, ShardId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.domain.agents import AgentRow
from learner_worker.domain.auctions import AuctionState
from learner_worker.domain.keywords import Tally
from learner_worker.domain.metrics import Metrics
from learner_worker.domain.outcomes import Cutoff, Outcome, OutcomeKey
from learner_worker.errors import ClosedFileError, ConfigurationError, StateError
from learner_worker.store import database, shard_file
from learner_worker.store.database import Database
from learner_worker.store.formats import FORMAT
from learner_worker.store.shard_file import ShardFile, shard_path
from learner_worker.store.statements import ROWS_AT_ONCE, Checkpoint, auction_of

PAGE = 500
IDENTITY = {"cluster_id": "c1", "topic_prefix": "", "partitions": "12", "shard": "3"}
T, A, B = TaskId("t"), AgentId("a"), AgentId("🤖")
BID = Bid(Micros(5), 70, "parse")
OUTCOME = Outcome(T, A, Close(Micros(9), A, 60, "digest"), BID, Result(Micros(20), succeeded=False))
STATE = AuctionState(50, {"bid-placed": 3}, Close(Micros(9), A), [A, B], {B: [BID]})
AGENT = AgentRow(Metrics(7, 6, 5, 4, 3, MAX_SATS * 10**6), 1_000, 8)
WHOLE = Checkpoint(
    {TopicName("bid-placed"): 7, TopicName("learner-outcomes"): 2**40},
    {T: STATE, TaskId("gone"): None},
    {(T, A): OUTCOME, (T, B): Outcome(T, B, None, BID)},
    {A: AGENT, B: AgentRow()},
    {A: {"parse": Tally(3, 1), "gone": Tally(0, 0)}, B: {"label": Tally(0, 2)}},
)
NEXT = Checkpoint({TopicName("bid-placed"): 8}, {T: None}, {(T, A): Outcome(T, A, None, BID)})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return shard_path(tmp_path, ShardId(3))


async def write(path: Path, *checkpoints: Checkpoint) -> None:
    file = await ShardFile.open(path, IDENTITY)
    for checkpoint in checkpoints:
        await file.write(checkpoint)
    await file.close()


Contents = tuple[
    dict[str, int],
    dict[TaskId, AuctionState],
    dict[OutcomeKey, Outcome],
    dict[AgentId, tuple[AgentRow, MutableMapping[str, Tally]]],
]
EMPTY: Contents = ({}, {}, {}, {})
WRITTEN: Contents = (
    {"bid-placed": 7, "learner-outcomes": 2**40},
    {T: STATE},
    {(T, A): OUTCOME, (T, B): Outcome(T, B, None, BID)},
    {A: (AGENT, {"parse": Tally(3, 1)}), B: (AgentRow(), {"label": Tally(0, 2)})},
)


async def contents_of(file: ShardFile) -> Contents:
    return (
        await file.load_positions(),
        await file.load_auctions(),
        await file.load_outcomes([(T, A), (T, B), (TaskId("no"), A)]),
        await file.load_agents([A, B, AgentId("no")]),
    )


async def read(path: Path) -> Contents:
    file = await ShardFile.open(path, IDENTITY)
    try:
        return await contents_of(file)
    finally:
        await file.close()


def copied(path: Path, folder: Path) -> Path:
    """What a kill leaves: the file and its log as they are on disk now."""
    folder.mkdir()
    for left in path.parent.glob(path.name + "*"):
        shutil.copy(left, folder)
    return folder / path.name


def fill(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def run(path: Path, sql: str) -> None:
    """Does something to the file behind its back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(sql)


def cut_in_two(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def content(path: Path) -> bytes:
    return path.read_bytes()


async def threads_ended() -> None:
    """aiosqlite does not wait for the thread of a connection that failed: it must not outlive the loop."""
    for thread in threading.enumerate():
        if "_connection_worker_thread" in thread.name:
            await asyncio.to_thread(thread.join, 10)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- growth ---------------------------------------------------------------------------------------


def closed(count: int, first: int = 0) -> dict[OutcomeKey, Outcome]:
    """Lost outcomes under random keys, closed one after the other."""
    found: dict[OutcomeKey, Outcome] = {}
    for number in range(first, first + count):
        key = (TaskId(f"{random.Random(number).getrandbits(128):032x}"), A)
        found[key] = Outcome(*key, Close(Micros(number)), Bid(Micros(number), 5, "parse invoices " * 4))
    return found


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


async def test_the_log_stays_bounded_though_somebody_always_reads(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows by the ten thousand, a read always under way: the log is emptied as soon as it is too long."""
    limit, sizes, done = 2**20, [0], asyncio.Event()
    monkeypatch.setattr(database, "_MAX_LOG_BYTES", limit)
    file = await ShardFile.open(path, IDENTITY)

    keys = list(closed(500))

    async def read_on() -> int:
        reads = 0
        while not done.is_set():
            await file.load_outcomes(keys)
            reads += 1
        return reads

    reading = asyncio.create_task(read_on())
    for first in range(0, 10_000, 200):
        await file.write(Checkpoint({}, outcomes=closed(200, first)))
        sizes.append(size_of(path.with_name(path.name + "-wal")))
    done.set()

    assert await reading > 10
    growth = [after - before for before, after in itertools.pairwise(sizes)]
    assert max(sizes) <= limit + max(growth)
    assert len([size for size in sizes[1:] if size == 0]) > 3
    await file.close()


async def test_space_of_forgotten_rows_is_used_again(path: Path) -> None:
    """Outcomes and auctions that go make room for as many new ones: the file grows once, not for ever."""
    file = await ShardFile.open(path, IDENTITY)
    sizes = []
    for first in range(0, 32_000, 4_000):
        gone = {key: Outcome(*key) for key in closed(4_000, first - 4_000)} if first else {}
        old = {TaskId(f"t{number}"): None for number in range(first - 4_000, first)}
        new = {TaskId(f"t{number}"): STATE for number in range(first, first + 4_000)}
        await file.write(Checkpoint({}, {**old, **new}, {**gone, **closed(4_000, first)}))
        run(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        sizes.append(size_of(path))
    assert max(sizes) <= 2.5 * sizes[0]
    assert max(sizes[4:]) <= 1.1 * max(sizes[:4])
    await file.close()


async def test_expired_rows_are_found_page_by_page(path: Path) -> None:
    """Pages of any size meet every row with an expired part once, and no other."""
    rows = closed(300)
    early = {key for key, row in rows.items() if row.close is not None and row.close.closed_at < 100}
    alone = Outcome(T, A, result=Result(Micros(9), succeeded=True))
    file = await ShardFile.open(path, IDENTITY)
    assert await file.expired_after(None, Cutoff(Micros(1), Micros(1)), scanned=7, limit=7) == ([], None)
    await file.write(Checkpoint({}, outcomes={**rows, (T, A): alone, (T, B): Outcome(T, B, None, BID)}))
    for scanned, limit in ((1, 1), (7, 3), (50, 50), (301, 10), (302, 1_000), (10_000, 10_000)):
        found: list[OutcomeKey] = []
        after: OutcomeKey | None = None
        while True:
            cutoff = Cutoff(Micros(100), Micros(6))
            keys, after = await file.expired_after(after, cutoff, scanned=scanned, limit=limit)
            found += keys
            if after is None:
                break
        assert sorted(found) == sorted({*early, (T, B)})
    await file.close()


async def test_forgotten_rows_and_agents_go_and_the_cutoff_stays(path: Path) -> None:
    """An outcome of which nothing is known, an agent without outcomes once that is published."""
    nobody, known = AgentRow(Metrics(), 5, 5), AgentRow(Metrics(total_bids=1), 5, 5)
    cutoff = Cutoff(Micros(9), Micros(-3))
    await write(
        path, WHOLE, Checkpoint({}, outcomes={(T, A): Outcome(T, A)}, agents={A: nobody}, cutoff=cutoff)
    )
    file = await ShardFile.open(path, IDENTITY)
    assert cutoff == await file.load_cutoff()
    assert list(await file.load_outcomes([(T, A), (T, B)])) == [(T, B)]
    assert A in await file.load_agents([A])
    await file.write(Checkpoint({}, published=[A], cutoff=cutoff, leaving=[A]))
    assert A not in await file.load_agents([A])
    await file.write(Checkpoint({}, agents={A: known}, published=[A], leaving=[A]))
    assert A in await file.load_agents([A])
    assert cutoff == await file.load_cutoff()
    await file.close()


# --- round trips ----------------------------------------------------------------------------------


def test_a_shards_file_is_named_by_its_number(tmp_path: Path) -> None:
    """Five digits, so that a listing is in order."""
    assert tmp_path / "shard-00003.sqlite3" == shard_path(tmp_path, ShardId(3))


async def test_a_checkpoint_comes_back_after_a_restart(path: Path) -> None:
    """Positions, auctions, outcomes, agents with sums beyond 2^63 and keywords, to the last digit."""
    await write(path, WHOLE)

    assert await read(path) == WRITTEN


async def test_a_checkpoint_is_read_at_once(path: Path) -> None:
    """The reading connection sees what was just written, and nothing before."""
    file = await ShardFile.open(path, IDENTITY)
    assert await contents_of(file) == EMPTY
    await file.write(WHOLE)
    assert await contents_of(file) == WRITTEN
    await file.close()


async def test_a_checkpoint_survives_a_kill(path: Path, tmp_path: Path) -> None:
    """What a killed process leaves, file and write-ahead log, has every written checkpoint."""
    file = await ShardFile.open(path, IDENTITY)
    await file.write(WHOLE)
    disk = copied(path, tmp_path / "disk")
    await file.close()

    assert await read(disk) == WRITTEN


async def test_a_rewind_drops_the_auctions_and_notes_where_to_read_them_anew(path: Path) -> None:
    """Rows and the other positions stay."""
    file = await ShardFile.open(path, IDENTITY)
    await file.write(WHOLE)
    await file.rewind({TopicName("bid-placed"): 2})

    positions, _, outcomes, agents = WRITTEN
    assert (positions | {"bid-placed": 2}, {}, outcomes, agents) == await contents_of(file)
    await file.close()


@pytest.mark.parametrize("count", [499, 500, 501, 1_001])
async def test_many_rows_are_read_in_batches(count: int, path: Path) -> None:
    """However many pairs are asked for, all that exist come back."""
    keys = [(TaskId(f"t{number}"), A) for number in range(count)]
    rows = {key: Outcome(*key, None, BID) for key in keys}
    file = await ShardFile.open(path, IDENTITY)
    await file.write(Checkpoint({}, outcomes=rows))

    assert rows == await file.load_outcomes(keys)
    await file.close()


async def test_two_checkpoints_at_once_are_written_one_after_the_other(path: Path) -> None:
    """Transactions never mix, a rewind and a checkpoint neither."""
    file = await ShardFile.open(path, IDENTITY)
    await asyncio.gather(file.write(WHOLE), file.write(NEXT), file.rewind({}))

    assert await file.load_positions() == {"bid-placed": 8, "learner-outcomes": 2**40}
    await file.close()


# --- the format -----------------------------------------------------------------------------------


async def test_agents_are_unpublished_until_a_checkpoint_says_otherwise(path: Path) -> None:
    """A changed agent is due, a published one is not, until it changes again."""
    file = await ShardFile.open(path, IDENTITY)
    await file.write(Checkpoint({}, agents={A: AGENT, B: AGENT}))
    assert await file.load_unpublished() == {A, B}
    await file.write(Checkpoint({}, agents={A: AGENT}, published={A, B}))
    assert await file.load_unpublished() == set()
    await file.write(Checkpoint({}, agents={B: AGENT}))
    assert await file.load_unpublished() == {B}
    await file.close()


async def test_the_schema_of_a_fresh_file(path: Path) -> None:
    """Format 5: its tables with their columns, the version, write-ahead logging."""
    await write(path)

    with closing(sqlite3.connect(path)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_schema ORDER BY name")]
        assert {
            table: " ".join(row[1] for row in database.execute(f"PRAGMA table_info({table})"))
            for table in tables
        } == {
            "agents": "agent_id total_bids auctions_won tasks_completed tasks_failed priced_wins priced_sats"
            " as_of outcome_offset published",
            "agents_unpublished": "",
            "auctions": "task_id state",
            "cutoff": "only closes others",
            "forgotten": "agent_id until",
            "identity": "name value",
            "keywords": "agent_id keyword wins failures",
            "outcomes": "task_id agent_id closed_at winner_agent_id winning_bid_sats close_digest"
            " close_description placed_at bid_sats description finished_at succeeded",
            "positions": "topic next_offset",
            "sqlite_autoindex_outcomes_1": "",
            "strategies": "name version counted_task counted_agent",
            "sums": "agent_id strategy cells",
        }
        assert (
            database.execute("PRAGMA user_version").fetchone()[0],
            database.execute("PRAGMA journal_mode").fetchone()[0],
        ) == (5, "wal")
        assert dict(database.execute("SELECT name, value FROM identity")) == IDENTITY


async def test_an_empty_file_is_a_fresh_one(path: Path) -> None:
    """A crash before the first write leaves nothing to set aside."""
    fill(path, b"")

    assert await read(path) == EMPTY
    assert [path.name] == left_in(path.parent)


# --- whose file it is -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cluster_id", "topic_prefix", "shard"])
async def test_a_file_of_somebody_elses_is_refused(name: str, path: Path) -> None:
    """Another cluster, prefix or shard: the message names both; the file is untouched."""
    await write(path, WHOLE)
    with pytest.raises(ConfigurationError) as caught:
        await ShardFile.open(path, IDENTITY | {name: "other"})

    assert f"belongs to {name} {IDENTITY[name]!r}, this worker to 'other': " in str(caught.value)
    assert await read(path) == WRITTEN
    assert [path.name] == left_in(path.parent)


async def test_a_file_of_another_partition_count_is_kept(path: Path) -> None:
    """Another folder would hide that its numbers are the right ones: nobody is sent there."""
    await write(path, WHOLE)
    with pytest.raises(ConfigurationError) as caught:
        await ShardFile.open(path, IDENTITY | {"partitions": "24"})

    assert f"{path} was written for 12 partitions, the topics have 24: " in str(caught.value)
    assert "keep every state folder" in str(caught.value)
    assert "another --state-dir" not in str(caught.value)
    assert await read(path) == WRITTEN


RECORDED = IDENTITY | {"incarnation": "i1", "generation": "2"}


async def test_a_file_of_an_older_version_gains_its_incarnation(path: Path) -> None:
    """It is opened as before, keeps its rows, and from then on belongs to that incarnation."""
    await write(path, WHOLE)
    await (await ShardFile.open(path, RECORDED)).close()

    with closing(sqlite3.connect(path)) as database:
        assert dict(database.execute("SELECT name, value FROM identity")) == RECORDED
    assert await read(path) == WRITTEN
    with pytest.raises(ConfigurationError, match=r"other topics of the same names .*'i1', now 'i2'"):
        await ShardFile.open(path, RECORDED | {"incarnation": "i2"})


async def test_a_file_that_is_somebody_elses_gains_nothing(path: Path) -> None:
    """An older version's file of another cluster stays as it is."""
    await write(path, WHOLE)
    with pytest.raises(ConfigurationError, match="belongs to cluster_id"):
        await ShardFile.open(path, RECORDED | {"cluster_id": "c2"})

    with closing(sqlite3.connect(path)) as database:
        assert dict(database.execute("SELECT name, value FROM identity")) == IDENTITY


async def test_a_file_follows_the_generation_and_never_goes_back(path: Path) -> None:
    """A higher one is noted; a lower one is what somebody reads from an old copy, or damage: refused."""
    await (await ShardFile.open(path, RECORDED)).close()
    await (await ShardFile.open(path, RECORDED | {"generation": "10"})).close()

    with pytest.raises(ConfigurationError, match="under generation 10 of the topology, Kafka records 9"):
        await ShardFile.open(path, RECORDED | {"generation": "9"})
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE identity SET value = 'ten' WHERE name = 'generation'")
    with pytest.raises(ConfigurationError, match="generation ten"):
        await ShardFile.open(path, RECORDED | {"generation": "10"})


async def test_an_identity_without_a_name_is_refused(path: Path) -> None:
    """A file that does not say what it is asked is not trusted."""
    await write(path)

    with pytest.raises(ConfigurationError, match="belongs to more None"):
        await ShardFile.open(path, IDENTITY | {"more": "x"})


# --- damage ---------------------------------------------------------------------------------------


async def test_a_file_that_is_no_database_is_set_aside(path: Path) -> None:
    """Damage is kept under another name, with the leftovers of its log gone, and a fresh file begins."""
    fill(path, b"this is no database" * 1_000)
    for suffix in ("-wal", "-shm"):
        fill(path.with_name(path.name + suffix), b"junk")

    assert await read(path) == EMPTY
    assert left_in(path.parent) == ["shard-00003.damaged", "shard-00003.sqlite3"]
    assert content(path.with_suffix(".damaged")) == b"this is no database" * 1_000


async def test_a_file_cut_in_two_is_set_aside(path: Path) -> None:
    """A file whose pages are missing is no file to go on with."""
    await write(path, WHOLE)
    cut_in_two(path)

    assert await read(path) == EMPTY
    assert left_in(path.parent) == ["shard-00003.damaged", "shard-00003.sqlite3"]


async def test_a_file_of_a_newer_format_is_set_aside(path: Path) -> None:
    """A downgrade keeps the newer file and begins anew: Kafka has every fact."""
    await write(path, WHOLE)
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {FORMAT + 1}")
        database.commit()

    assert await read(path) == EMPTY
    assert left_in(path.parent) == ["shard-00003.newer", "shard-00003.sqlite3"]
    with closing(sqlite3.connect(path.with_suffix(".newer"))) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (FORMAT + 1,)
        assert database.execute("SELECT count(*) FROM outcomes").fetchone() == (2,)


async def test_a_file_that_cannot_be_opened_is_a_state_error(tmp_path: Path) -> None:
    """A missing folder, or a folder in the file's place: the shard stops with the path in its message."""
    with pytest.raises(StateError, match=r"cannot open .*no-folder.*No such file"):
        await ShardFile.open(tmp_path / "no-folder" / "x.sqlite3", IDENTITY)
    with pytest.raises(StateError, match="cannot open"):
        await ShardFile.open(tmp_path, IDENTITY)
    await threads_ended()
    assert left_in(tmp_path) == []


# --- failures -------------------------------------------------------------------------------------


async def test_a_failed_write_leaves_nothing(path: Path) -> None:
    """A full disk in the middle of a checkpoint: an error, the old state whole, and later writes work."""
    await write(path, WHOLE)
    writer, reader = [await aiosqlite.connect(path, isolation_level=None) for _ in range(2)]
    file = ShardFile(Database(path, writer, reader))
    ((pages,),) = await writer.execute_fetchall("PRAGMA page_count")
    await writer.execute(f"PRAGMA max_page_count = {pages + 1}")
    large = {
        (TaskId(f"t{number}"), A): Outcome(TaskId(f"t{number}"), A, None, Bid(Micros(1), 1, "x" * 5_000))
        for number in range(20)
    }
    with pytest.raises(StateError, match=r"cannot write .*No space left.*: free disk space"):
        await file.write(Checkpoint({TopicName("bid-placed"): 99}, {T: None}, large, {A: AgentRow()}))

    assert await contents_of(file) == WRITTEN
    assert await file.load_outcomes(list(large)) == {}
    await writer.execute("PRAGMA max_page_count = 1000000")
    await file.write(NEXT)
    assert (await file.load_positions())["bid-placed"] == 8
    await file.close()


async def test_a_failure_after_the_rows_leaves_nothing(path: Path) -> None:
    """Rows without their positions are not there either: it is one transaction."""
    file = await ShardFile.open(path, IDENTITY)
    await file.write(WHOLE)
    run(path, "CREATE TRIGGER refuse BEFORE INSERT ON positions BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(StateError, match="cannot write"):
        await file.write(NEXT)

    assert await contents_of(file) == WRITTEN
    await file.close()


async def test_a_checkpoint_of_many_rows_is_written_whole(path: Path) -> None:
    """Many rows go into one statement, the rest row by row; a second checkpoint goes over the first."""
    count = 2 * ROWS_AT_ONCE + 7
    rows = [Outcome(TaskId(f"t{number}"), A, None, BID) for number in range(count)]
    words = {f"word{number}": Tally(number + 1, 2) for number in range(count)}
    states = {TaskId(f"t{number}"): STATE for number in range(count)}
    file = await ShardFile.open(path, IDENTITY)
    await file.write(Checkpoint({}, states, {(row.task_id, A): row for row in rows}, {A: AGENT}, {A: words}))
    later = [Outcome(row.task_id, A, OUTCOME.close, BID) for row in rows]
    await file.write(Checkpoint({}, {}, {(row.task_id, A): row for row in later}))

    assert await file.load_outcomes([(row.task_id, A) for row in rows]) == {
        (row.task_id, A): row for row in later
    }
    assert await file.load_agents([A]) == {A: (AGENT, words)}
    assert await file.load_auctions() == states
    await file.close()


async def test_loading_many_auctions_gives_way_to_others(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two turns of the event loop no more than a page of them is decoded; all of them come."""
    states = {TaskId(f"t{number}"): STATE for number in range(4 * PAGE)}
    file = await ShardFile.open(path, IDENTITY)
    await file.write(Checkpoint({}, states))
    decoded: Counter[int] = Counter()
    turn = 0

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    def noting(row: Sequence[object]) -> tuple[TaskId, AuctionState]:
        decoded[turn] += 1
        return auction_of(row)

    monkeypatch.setattr(shard_file, "auction_of", noting)
    counting = asyncio.create_task(count_turns())
    loaded = await file.load_auctions()
    counting.cancel()
    await file.close()
    assert loaded == states
    assert (sum(decoded.values()), max(decoded.values())) == (len(states), PAGE)


async def test_a_failed_read_is_a_state_error(path: Path) -> None:
    """A table that is gone is told with the file's name."""
    file = await ShardFile.open(path, IDENTITY)
    run(path, "DROP TABLE positions")

    with pytest.raises(StateError, match=r"cannot read .*shard-00003"):
        await file.load_positions()
    await file.close()


async def test_a_read_after_the_close_says_so(path: Path) -> None:
    """The shard may be handed over between two reads."""
    file = await ShardFile.open(path, IDENTITY)
    await file.close()

    with pytest.raises(ClosedFileError, match=r"shard-00003.* is closed"):
        await file.load_agents([AgentId("ann")])
