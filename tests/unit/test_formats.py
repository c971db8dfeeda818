"""The formats of a shard's file: each becomes today's, in steps that a crash or a failure cannot halve.

`formats/N.sql` is a dump of a file of format N, made by code that wrote that format.
"""

import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from learner_worker import store
from learner_worker.contract.facts import Bid, Close, Result, description_digest
from learner_worker.contract.fields import MAX_SATS, AgentId, ShardId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.domain.agents import AgentRow
from learner_worker.domain.auctions import AuctionState
from learner_worker.domain.keywords import Tally
from learner_worker.domain.metrics import Metrics
from learner_worker.domain.outcomes import Cutoff, Outcome, OutcomeKey
from learner_worker.errors import StateError
from learner_worker.store.database import Database
from learner_worker.store.formats import CHANGES, FORMAT, Conversion, FormatChange, Writes
from learner_worker.store.shard_file import ShardFile, shard_path
from learner_worker.store.snapshot import snapshot_of
from learner_worker.store.statements import Checkpoint, SqlRow

DUMPS = Path(__file__).parent / "formats"
IDENTITY = {"cluster_id": "c1", "topic_prefix": "", "partitions": "12", "shard": "3"}
A, B, C = AgentId("a"), AgentId("b"), AgentId("c")
T1, T2, T3, T5 = TaskId("t1"), TaskId("t2"), TaskId("t3"), TaskId("t5")
CLOSE = Close(Micros(2_000_000), A, 60)
LABELLED = Close(Micros(2_500_000), C, None, description_digest("label images"), "label images")
OUTCOMES = {
    (T1, A): Outcome(
        T1, A, CLOSE, Bid(Micros(1_000_000), 60, "parse invoices"), Result(Micros(3_000_000), succeeded=True)
    ),
    (T1, B): Outcome(T1, B, CLOSE, Bid(Micros(1_100_000), 70, "parse invoices")),
    (T2, C): Outcome(T2, C, LABELLED, None, Result(Micros(3_500_000), succeeded=False)),
    (T3, A): Outcome(T3, A, None, None, Result(Micros(3_600_000), succeeded=False)),
}
AGENTS = {
    A: (
        AgentRow(Metrics(1, 1, 1, 0, 1, 60), 3_000, 5),
        {"parse": Tally(1, 0), "invoices": Tally(1, 0)},
    ),
    B: (AgentRow(Metrics(1), 2_000, 6), {}),
    C: (AgentRow(Metrics(1, 1, 0, 1), 3_500, 8), {"label": Tally(0, 1), "images": Tally(0, 1)}),
}
AUCTIONS = {
    T1: AuctionState(1_000_000, {"bid-placed": 1, "auction-closed": 0}, CLOSE, [A, B], {}),
    T5: AuctionState(
        1_200_000, {"bid-placed": 4}, None, [], {B: [Bid(Micros(1_200_000), MAX_SATS, "späte Übersetzung")]}
    ),
}
POSITIONS = {"bid-placed": 7, "auction-closed": 2, "task-finished": 3, "learner-outcomes": 9}
SUMS = {A: {"expected-profit": {5: {46: (0, 1)}}}, B: {"expected-profit": {6: {46: (1, 0)}}}}
CUTOFF = Cutoff(Micros(500_000), Micros(250_000))


def file_of(number: int, folder: Path) -> Path:
    """A file of a format, as its dump describes it."""
    path = shard_path(folder, ShardId(3))
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((DUMPS / f"{number}.sql").read_text("utf-8"))
    return path


def shape_of(path: Path) -> tuple[list[Any], int]:
    """A file's tables and indexes, and its format."""
    with closing(sqlite3.connect(path)) as connection:
        shape = connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()
        ((number,),) = connection.execute("PRAGMA user_version")
    return shape, number


# --- from every format ------------------------------------------------------------------------------------


def test_there_is_a_file_of_every_format() -> None:
    """A new format comes with a dump of a file that the code before it has written."""
    assert sorted(int(path.stem) for path in DUMPS.glob("*.sql")) == list(range(1, FORMAT + 1))


@pytest.mark.parametrize("number", range(1, FORMAT + 1))
async def test_a_file_of_any_format_becomes_one_of_todays(number: int, tmp_path: Path) -> None:
    """Every row is still there, and the tables are those of a new file."""
    path = file_of(number, tmp_path)
    file = await ShardFile.open(path, IDENTITY)

    assert await file.load_positions() == POSITIONS
    assert await file.load_auctions() == AUCTIONS
    assert await file.load_outcomes(list(OUTCOMES)) == OUTCOMES
    assert await file.load_agents(list(AGENTS)) == AGENTS
    assert await file.load_unpublished() == {B, C}
    assert await file.load_cutoff() == (CUTOFF if number >= 2 else None)
    assert await file.load_forgotten() == ({"z": 400_000} if number >= 3 else {})
    sums = {
        who: {name: kept.read() for name, kept in of.items()}
        for who, of in (await file.load_sums(list(AGENTS))).items()
    }
    assert sums == (SUMS if number >= 4 else {})
    await file.write(Checkpoint({}))
    assert await file.load_outcomes(list(OUTCOMES)) == OUTCOMES
    await file.close()
    with closing(sqlite3.connect(":memory:")) as new:
        new.executescript(resources.files(store).joinpath("schema.sql").read_text("utf-8"))
        expected = new.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()
    assert shape_of(path) == (expected, FORMAT)


@pytest.mark.parametrize("number", range(1, FORMAT + 1))
def test_a_file_of_any_format_is_read_as_it_lies(number: int, tmp_path: Path) -> None:
    """Looking into a file changes nothing of it."""
    path = file_of(number, tmp_path)
    before = path.read_bytes()
    with snapshot_of(path) as snapshot:
        assert (snapshot.format, snapshot.identity(), snapshot.positions()) == (number, IDENTITY, POSITIONS)
        assert snapshot.cutoff() == (CUTOFF if number >= 2 else None)
        assert snapshot.outcomes(list(OUTCOMES)) == OUTCOMES
    assert path.read_bytes() == before


async def test_a_change_that_fails_leaves_the_format_before_it(tmp_path: Path) -> None:
    """Its script is one transaction; the changes before it stay, and the next start goes on from there."""
    path = file_of(1, tmp_path)
    broken = {2: CHANGES[2], 3: FormatChange("CREATE TABLE half (a);\nCREATE TABLE half (a);")}
    with pytest.raises(StateError, match="half"):
        await ShardFile.open(path, IDENTITY, broken)
    shape, number = shape_of(path)
    assert (number, "half" in dict(shape), "cutoff" in dict(shape)) == (2, False, True)

    await (await ShardFile.open(path, IDENTITY)).close()
    assert shape_of(path)[1] == FORMAT


# --- rows in pages ----------------------------------------------------------------------------------------

PAGE = 500
ROWS = 1_200
ADD_ONE = """
INSERT INTO wins (agent_id, count) VALUES (?, 1) ON CONFLICT (agent_id) DO UPDATE SET count = count + 1
"""
REFUSE = "CREATE TRIGGER refuse BEFORE INSERT ON conversions BEGIN SELECT RAISE(ABORT, 'no'); END"


def counted(page: Sequence[SqlRow]) -> Writes:
    """Adds to a table of counts: a page that was taken twice or never would show."""
    yield ADD_ONE, ((row[1],) for row in page)


TOPICS = "SELECT topic FROM positions WHERE topic > ? ORDER BY topic LIMIT ?"
COUNTING = Conversion(
    "SELECT task_id, agent_id FROM outcomes WHERE (task_id, agent_id) > (?, ?) "
    "ORDER BY task_id, agent_id LIMIT ?",
    ("", ""),
    counted,
)
WINS = "CREATE TABLE wins (agent_id TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;"
COUNTED: Mapping[int, FormatChange] = {**CHANGES, FORMAT + 1: FormatChange(WINS, COUNTING)}


def rows(first: int, count: int) -> dict[OutcomeKey, Outcome]:
    ids = [TaskId(f"task-{number:05}'") for number in range(first, first + count)]
    return {(task_id, A): Outcome(task_id, A, CLOSE) for task_id in ids}


async def grown(folder: Path, count: int = ROWS, number: int = FORMAT) -> Path:
    """A file of a format with some pages of rows."""
    path = file_of(number, folder)
    former = {before: change for before, change in CHANGES.items() if before <= number}
    file = await ShardFile.open(path, IDENTITY, former)
    await file.write(Checkpoint({}, outcomes=rows(0, count)))
    await file.close()
    return path


def wins(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT agent_id, count FROM wins"))


async def test_every_row_is_converted_once(tmp_path: Path) -> None:
    """Page by page; then the table that tells of the conversion is gone."""
    path = await grown(tmp_path)
    database = await Database.open(path, COUNTED)
    pages = 1
    while await database.convert_page():
        pages += 1
    assert pages == (ROWS + len(OUTCOMES)) // PAGE + 1
    assert not await database.convert_page()
    await database.close()

    assert wins(path) == {A: ROWS + 2, B: 1, C: 1}
    shape, number = shape_of(path)
    assert (number, "conversions" in dict(shape)) == (FORMAT + 1, False)


async def test_rows_are_converted_beside_the_files_use(tmp_path: Path) -> None:
    """Some pages with every checkpoint; the file is read and written as ever."""
    many = 20 * PAGE
    path = await grown(tmp_path, many)
    file = await ShardFile.open(path, IDENTITY, COUNTED)
    checkpoints = 0
    while "conversions" in dict(shape_of(path)[0]):
        checkpoints += 1
        assert checkpoints < 10
        await file.write(Checkpoint({TopicName("bid-placed"): checkpoints}, outcomes=rows(0, 10)))
        assert (await file.load_positions())["bid-placed"] == checkpoints
        assert await file.load_outcomes(list(OUTCOMES)) == OUTCOMES
    await file.write(Checkpoint({}))
    await file.close()

    assert checkpoints > 1
    assert wins(path) == {A: many + 2, B: 1, C: 1}


async def test_a_conversion_goes_on_where_the_last_process_ended(tmp_path: Path) -> None:
    """It may end after any page."""
    path = await grown(tmp_path)
    more = True
    while more:
        database = await Database.open(path, COUNTED)
        more = await database.convert_page()
        await database.close()

    assert wins(path) == {A: ROWS + 2, B: 1, C: 1}


async def test_a_page_that_fails_is_converted_again(tmp_path: Path) -> None:
    """Its rows and its progress are one transaction."""
    path = await grown(tmp_path)
    database = await Database.open(path, COUNTED)
    assert await database.convert_page()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(REFUSE)
    for _ in range(2):
        with pytest.raises(StateError, match="cannot write"):
            await database.convert_page()
    assert sum(wins(path).values()) == PAGE
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("DROP TRIGGER refuse")
    while await database.convert_page():
        pass
    await database.close()

    assert wins(path) == {A: ROWS + 2, B: 1, C: 1}


async def test_conversions_follow_one_another_in_the_order_of_their_formats(tmp_path: Path) -> None:
    """A file that lacks two changes takes both scripts at once, and then the rows of the first."""
    taken: list[str] = []

    def noted(name: str) -> Conversion:
        def convert(page: Sequence[SqlRow]) -> Iterator[tuple[str, list[SqlRow]]]:
            taken.extend(f"{name} {row[0]}" for row in page)
            return iter(())

        return Conversion(TOPICS, ("",), convert)

    changes = {
        **CHANGES,
        FORMAT + 1: FormatChange("CREATE TABLE first (a);", noted("first")),
        FORMAT + 2: FormatChange("CREATE TABLE second (a);", noted("second")),
    }
    database = await Database.open(file_of(FORMAT, tmp_path), changes)
    assert await database.convert_page()
    assert not await database.convert_page()
    await database.close()
    assert taken == [f"{name} {topic}" for name in ("first", "second") for topic in sorted(POSITIONS)]


async def test_a_new_file_has_nothing_to_convert(tmp_path: Path) -> None:
    """Its tables are today's from the start."""
    database = await Database.open(shard_path(tmp_path, ShardId(3)))
    assert not await database.convert_page()
    await database.close()


# --- format 5: outcomes by rowid ---------------------------------------------------------------------------

WRITTEN = (1, 0), (-1, 20 * PAGE), (1, 20 * PAGE)
NO_END = "CREATE TRIGGER refuse BEFORE DELETE ON conversions BEGIN SELECT RAISE(ABORT, 'no'); END"


def key_of(number: int) -> OutcomeKey:
    (key,) = rows(number, 1)
    return key


def parts_of(path: Path) -> set[str]:
    """The tables of outcomes in a file, and the triggers on them."""
    return {name for name, _ in shape_of(path)[0] if "outcome" in name and not name.startswith("sqlite_")}


async def seen(file: ShardFile) -> dict[OutcomeKey, Outcome]:
    """All outcomes, page by page; every other way to read them agrees."""
    pages = [page async for page in file.all_outcomes()]
    found = {(row.task_id, row.agent_id): row for page in pages for row in page}
    assert list(found) == sorted(found)
    assert sum(map(len, pages)) == len(found)
    assert await file.load_outcomes(list(found)) == found
    of_b = [key async for page in file.keys_of_agents([B]) for key in page]
    assert of_b == [key for key in found if key[1] == B]
    all_expired = Cutoff(Micros(2**60), Micros(2**60))
    expired, _ = await file.expired_after(None, all_expired, scanned=len(found), limit=len(found))
    assert expired == list(found)
    with snapshot_of(file.path) as snapshot:
        assert [row[:2] for row in snapshot.outcomes_by_task()] == list(found)
        assert snapshot.counts().rows == len(found)
    return found


async def test_outcomes_are_complete_while_they_get_rowids(tmp_path: Path) -> None:
    """Rows before and behind the last one copied are added, changed and deleted; every read shows that."""
    path = await grown(tmp_path, 20 * PAGE, 4)
    file = await ShardFile.open(path, IDENTITY)
    expected = OUTCOMES | rows(0, 20 * PAGE)
    assert await seen(file) == expected
    checkpoints = 0
    while len(parts_of(path)) > 1:
        checkpoints += 1
        assert checkpoints < 10
        first, last, new = (key_of(number * checkpoints + start) for number, start in WRITTEN)
        early = TaskId(f"a{checkpoints}"), B
        changes = {
            key: Outcome(*key, None, Bid(Micros(5), checkpoints, "again"))
            for key in (first, last, new, early, (T1, A))
        }
        gone = [key_of(number + checkpoints) for number in (100, 15 * PAGE)]
        await file.write(Checkpoint({}, outcomes={**changes, **{key: Outcome(*key) for key in gone}}))
        expected = {key: row for key, row in (expected | changes).items() if key not in gone}
        assert await seen(file) == expected
    await file.close()

    assert checkpoints > 1
    assert parts_of(path) == {"outcomes"}
    file = await ShardFile.open(path, IDENTITY)
    assert await seen(file) == expected
    await file.close()


async def test_outcomes_get_rowids_in_whatever_steps(tmp_path: Path) -> None:
    """The disk as it is after any step leads to the same file: a process may be killed after each."""
    path = await grown(tmp_path, ROWS, 4)
    database = await Database.open(path)
    steps = 0
    more = True
    while more:
        steps += 1
        killed = tmp_path / f"killed-{steps}"
        killed.mkdir()
        for part in path.parent.glob(f"{path.name}*"):
            shutil.copy(part, killed)
        file = await ShardFile.open(killed / path.name, IDENTITY)
        assert await seen(file) == OUTCOMES | rows(0, ROWS)
        await file.write(Checkpoint({}))
        assert await seen(file) == OUTCOMES | rows(0, ROWS)
        await file.close()
        assert parts_of(killed / path.name) == {"outcomes"}
        more = await database.convert_page()
    await database.close()
    assert steps == (ROWS + len(OUTCOMES)) // PAGE + 1


async def test_the_former_outcomes_stay_until_the_last_step_is_complete(tmp_path: Path) -> None:
    """A step that fails leaves them in use; then they go, and nothing of them stays in the file."""
    path = await grown(tmp_path, 10, 4)
    file = await ShardFile.open(path, IDENTITY)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(NO_END)
    changed = {(T1, A): Outcome(T1, A, CLOSE)}
    with pytest.raises(StateError, match="cannot write"):
        await file.write(Checkpoint({}, outcomes=changed))
    assert await seen(file) == OUTCOMES | rows(0, 10) | changed
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("DROP TRIGGER refuse")
    await file.write(Checkpoint({}, outcomes={(T1, B): Outcome(T1, B)}))
    left = await seen(file)
    await file.close()

    assert left == {key: row for key, row in (OUTCOMES | rows(0, 10) | changed).items() if key != (T1, B)}
    assert b"parse invoices" not in path.read_bytes()


async def test_rows_are_copied_by_their_keys(tmp_path: Path) -> None:
    """A page reads no more of either table than its rows."""
    conversion = CHANGES[5].conversion
    assert conversion is not None
    path = await grown(tmp_path, 10, 4)
    await (await ShardFile.open(path, IDENTITY)).close()
    ((copy, _),) = conversion.convert([(T1, A), (T2, C)])
    with closing(sqlite3.connect(path)) as connection:
        for sql in (conversion.page, copy):
            plan = connection.execute(f"EXPLAIN QUERY PLAN {sql}", [""] * sql.count("?")).fetchall()
            assert [row[3].split(" (")[0] for row in plan] == ["SEARCH outcomes USING PRIMARY KEY"]
