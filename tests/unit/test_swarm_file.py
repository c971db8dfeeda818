"""A swarm's SQLite file is read as it is found, and neither it nor its folder changes."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from learner_worker.errors import ConfigurationError
from learner_worker.operations import swarm_file as module
from learner_worker.operations.swarm_file import swarm_file
from tests.support.seed import INSERT, SCHEMA, row, write_rows

TASKS = ["t-1", "t-2", "t-3"]
CRASHING_WRITER = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA cache_size = 1")  # so that a page is written before the commit
connection.execute("UPDATE task_outcomes SET description = description || hex(randomblob(2000))")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with three rows, in a name that an URI would read otherwise."""
    path = tmp_path / "a swarm?#%41.db"
    write_rows(path, [row(task) for task in TASKS])
    return path


def tasks_in(path: Path) -> list[Any]:
    """The rows' task ids, as they are read; nothing in the folder may change by that."""
    before = folder(path)
    with swarm_file(path) as file:
        rows = [raw for page in file.rows() for raw in page]
        assert file.row_count == len(rows)
    assert folder(path) == before
    return [raw[1] for raw in rows]


def folder(path: Path) -> dict[str, tuple[bytes, int]]:
    """What lies beside the file; SQLite's shared memory changes by being looked at, its presence counts."""
    return {
        found.name: (b"" if found.name.endswith("-shm") else found.read_bytes(), found.stat().st_mode)
        for found in path.parent.iterdir()
        if found.is_file()
    }


def refusal_of(path: Path) -> str:
    """The sentence with which a file is refused; its folder stays as it was."""
    before = folder(path) if path.parent.is_dir() else {}
    with pytest.raises(ConfigurationError) as refusal, swarm_file(path) as file:
        list(file.rows())
    assert (folder(path) if path.parent.is_dir() else {}) == before
    sentence = str(refusal.value)
    assert "\n" not in sentence
    assert str(path) in sentence
    return sentence


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The swarm's own connection."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def test_rows_come_in_the_order_of_their_ids_with_their_columns_alone(tmp_path: Path) -> None:
    """More columns, in another order, and other tables: the eight columns are read, the tables are named."""
    path = tmp_path / "swarm.db"
    with opened(path) as connection:
        connection.execute(
            "CREATE TABLE task_outcomes"
            " (extra, created_at, task_succeeded, won_auction, description, bid_sats, agent_id, task_id, id)"
        )
        connection.execute("INSERT INTO task_outcomes VALUES (0, 'c', 1, 1, 'd', 5, 'a', 't-2', 2)")
        connection.execute("INSERT INTO task_outcomes VALUES (0, 'c', 1, 1, 'd', 5, 'a', 't-1', 1)")
        connection.executescript("CREATE TABLE tasks (a); CREATE TABLE bid_history (a)")
    with swarm_file(path) as file:
        assert [raw for page in file.rows() for raw in page] == [
            (1, "t-1", "a", 5, "d", 1, 1, "c"),
            (2, "t-2", "a", 5, "d", 1, 1, "c"),
        ]
        assert file.other_tables == ["bid_history", "tasks"]


def test_a_file_with_a_rollback_journal_is_read(path: Path) -> None:
    """The default of SQLite, and of Python's sqlite3."""
    assert tasks_in(path) == TASKS


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_a_file_in_utf16_is_read(tmp_path: Path, encoding: str) -> None:
    """Text comes as text, whatever the file's encoding."""
    path = tmp_path / "swarm.db"
    with opened(path) as connection:
        connection.executescript(f"PRAGMA encoding = '{encoding}'; {SCHEMA}")
        connection.execute(INSERT, row("задача 🤖"))
    assert tasks_in(path) == ["задача 🤖"]


def test_a_closed_file_in_wal_mode_is_read_without_making_files(path: Path) -> None:
    """Read-only SQLite would leave -wal and -shm beside it."""
    with opened(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    assert tasks_in(path) == TASKS
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_a_file_in_wal_mode_is_read_beside_its_writer(path: Path) -> None:
    """What is committed is seen, what is not is not, and the writer goes on meanwhile."""
    with opened(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(INSERT, row("t-4"))
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(INSERT, row("t-5"))
        assert tasks_in(path) == [*TASKS, "t-4"]
        with swarm_file(path):
            connection.execute("COMMIT")
        assert tasks_in(path) == [*TASKS, "t-4", "t-5"]


def test_a_copy_of_a_file_in_use_is_read_with_its_log(path: Path, tmp_path: Path) -> None:
    """The -wal was copied, the -shm was not: the rows in the log count, and no file is made or changed."""
    copy = tmp_path / "copy" / "swarm.db"
    copy.parent.mkdir()
    with opened(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(INSERT, row("t-4"))
        copy.write_bytes(path.read_bytes())
        copy.with_name("swarm.db-wal").write_bytes(path.with_name(path.name + "-wal").read_bytes())
    assert tasks_in(copy) == [*TASKS, "t-4"]


def test_a_file_that_is_written_to_while_it_is_read_without_locks_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was closed when it was looked at: then somebody opened it and wrote."""
    with opened(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    check = module.check_columns

    def while_it_is_read(connection: sqlite3.Connection, read: Path) -> None:
        check(connection, read)
        with opened(path) as writer:
            writer.execute(INSERT, row("t-4"))

    monkeypatch.setattr(module, "check_columns", while_it_is_read)
    with pytest.raises(ConfigurationError, match="was written to while it was read"), swarm_file(path):
        pass
    monkeypatch.undo()
    assert tasks_in(path) == [*TASKS, "t-4"]


def test_a_locked_file_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that holds it alone."""
    monkeypatch.setattr(module, "_BUSY_SECONDS", 0.1)
    with opened(path) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        assert "is locked by another program" in refusal_of(path)


def test_a_file_whose_writer_crashed_is_refused_and_left_for_its_own_program(path: Path) -> None:
    """A hot rollback journal: reading would mean to write."""
    write_rows(path, [row(f"more-{number}") for number in range(300)])
    crashed = subprocess.run([sys.executable, "-c", CRASHING_WRITER, path], check=False)
    assert crashed.returncode == -signal.SIGKILL
    assert path.with_name(path.name + "-journal").stat().st_size > 0
    assert "open it once with that program" in refusal_of(path)
    with opened(path) as connection:
        assert connection.execute("SELECT count(*) FROM task_outcomes").fetchone() == (303,)
    assert len(tasks_in(path)) == 303


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_truncated_file_is_refused(path: Path, share: float) -> None:
    """Cut off anywhere: nothing of it is used."""
    write_rows(path, [row(f"more-{number}") for number in range(2_000)])
    os.truncate(path, int(path.stat().st_size * share))
    assert "is damaged or cut off" in refusal_of(path)


def test_a_damaged_file_is_refused(path: Path) -> None:
    """Pages of noise in the middle."""
    write_rows(path, [row(f"more-{number}") for number in range(2_000)])
    content = bytearray(path.read_bytes())
    content[8_192:40_960] = b"\xaa" * (40_960 - 8_192)
    path.write_bytes(content)
    assert "is damaged or cut off" in refusal_of(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b"SQLite", "it does not begin as one"),
        (b"id,task_id\n1,t-1\n", "it does not begin as one"),
        (b"\0" * 8_192, "it does not begin as one"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    """Not SQLite's format."""
    path = tmp_path / "swarm.db"
    path.write_bytes(content)
    assert refusal_of(path).endswith(f"is not an SQLite database: {why}")


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    """Missing, a folder, a pipe that nobody writes to."""
    assert refusal_of(tmp_path / "missing.db").endswith("no such file")
    assert refusal_of(tmp_path / "no" / "folder.db").endswith("no such file")
    assert refusal_of(tmp_path).endswith("not a regular file")
    os.mkfifo(tmp_path / "pipe.db")
    assert refusal_of(tmp_path / "pipe.db").endswith("not a regular file")


def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    """Without the table, or without some of its columns."""
    path = tmp_path / "other.db"
    with opened(path) as connection:
        connection.execute("CREATE TABLE songs (title)")
    assert "it lacks the table task_outcomes" in refusal_of(path)
    with opened(path) as connection:
        connection.execute("CREATE TABLE task_outcomes (id, task_id, agent_id, bid_sats, won_auction)")
    assert "it lacks the columns description, task_succeeded, created_at of task_outcomes" in refusal_of(path)


def test_text_that_is_not_utf8_and_values_without_end_do_not_stop_the_reading(tmp_path: Path) -> None:
    """They come as what no field of the contract takes."""
    path = tmp_path / "swarm.db"
    write_rows(path, [row()])
    with opened(path) as connection:
        connection.execute("UPDATE task_outcomes SET agent_id = CAST(x'61ff' AS TEXT), task_id = x'00ff'")
        connection.execute("UPDATE task_outcomes SET description = printf('%.*c', 10000000, 'x')")
    with swarm_file(path) as file:
        ((raw,),) = file.rows()
    assert raw == (1, b"\x00\xff", "a\udcff", 100, b"too long", 0, None, "2025-03-01 12:00:00")


def test_no_room_for_the_copy_is_said(path: Path) -> None:
    """A process that may write no more than a few kilobytes a file."""
    write_rows(path, [row(description="x" * 10_000) for _ in range(2_000)])
    ended = subprocess.run(
        [
            "bash",
            "-c",
            f'ulimit -f 1000; exec "{sys.executable}" -m learner_worker import "$0" --dry-run',
            path,
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert "the temporary files of the import cannot be written" in ended.stderr
    assert "SQLITE_TMPDIR" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
