"""Reads a swarm's SQLite file without changing anything in its folder.

Its rows are copied into a temporary database by one statement, so the swarm's own writers wait for a second
or two at most. A file with a rollback journal is opened read-only, one in WAL mode by what lies beside it:

| beside the file | opened |
|---|---|
| -wal and -shm | read-only, together with the program that uses them |
| no -shm, and no -wal or an empty one | as immutable: read-only would create both |
| no -shm, and -wal with contents: the copy of a file in use | a temporary copy of both |

An immutable file is read without locks, so a change meanwhile is looked for afterwards.
"""

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

from learner_worker.errors import ConfigurationError, StateError
from learner_worker.operations.swarm_rows import COLUMNS, RawRow

_MAGIC: Final = b"SQLite format 3\0"
_WAL_VERSION: Final = 2
"""The file format version of a database in WAL mode, at offsets 18 and 19 of its header."""
_HEADER_BYTES: Final = 20  # of SQLite's header: up to the bytes that tell WAL mode
_PAGE: Final = 5_000
"""Rows fetched at once: some megabytes even if every description is long."""
_BUSY_SECONDS: Final = 5.0
"""SQLite's busy timeout: writers rarely hold the file for longer."""
_TABLE: Final = "task_outcomes"
_ENCODING: Final = "PRAGMA encoding"
_PRAGMAS: Final = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA temp_store = FILE;
PRAGMA trusted_schema = OFF;
"""
"""The copy ends with the process; views in an untrusted file must not call functions with side effects."""
_ATTACH: Final = "ATTACH ? AS swarm"
_DETACH: Final = "DETACH swarm"
_TABLES: Final = """
SELECT name FROM swarm.sqlite_schema
WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%' ORDER BY name
"""
_COLUMNS: Final = "SELECT name FROM pragma_table_info('task_outcomes', 'swarm')"
_COPY: Final = """
CREATE TABLE main.copied AS
SELECT id,
       CASE WHEN length(CAST(task_id AS BLOB)) > 1024 THEN CAST('too long' AS BLOB) ELSE task_id END,
       CASE WHEN length(CAST(agent_id AS BLOB)) > 1024 THEN CAST('too long' AS BLOB) ELSE agent_id END,
       bid_sats,
       CASE WHEN length(CAST(description AS BLOB)) > 65536 THEN CAST('too long' AS BLOB) ELSE description END,
       won_auction, task_succeeded, created_at
FROM swarm.task_outcomes ORDER BY id
"""
"""COLUMNS of every row. A character takes at most 4 bytes, in UTF-8 and in UTF-16: what is longer than 256 or
16,384 characters of 4 bytes is refused anyway, and is not brought into memory."""
_COUNT: Final = "SELECT count(*) FROM copied"
_ROWS: Final = "SELECT * FROM copied ORDER BY rowid"

_NOT_WRITTEN: Final = ("SQLITE_FULL", "SQLITE_IOERR_WRITE")
"""Only temporary files are ever written."""
_SIGNATURE = tuple[int, int]


class SwarmFile:
    """A copy of the file's rows.

    Attributes:
        row_count: rows of `task_outcomes`.
        other_tables: the file's other tables, which are not read.
    """

    def __init__(self, connection: sqlite3.Connection, other_tables: list[str]) -> None:
        self._connection = connection
        self.other_tables = other_tables
        self.row_count = int(connection.execute(_COUNT).fetchone()[0])

    def rows(self) -> Iterator[list[RawRow]]:
        """The rows' COLUMNS in pages, in the order of their ids; text that is not UTF-8 has surrogates.

        A value too long to be valid comes as the blob `too long`, so that no row takes much memory.
        """
        cursor = self._connection.execute(_ROWS)
        while page := cursor.fetchmany(_PAGE):
            yield page


def is_database(path: Path) -> bool:
    """Whether it begins as an SQLite database; what cannot be read is none."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


@contextmanager
def swarm_file(path: Path) -> Iterator[SwarmFile]:
    """Copies the rows of a swarm's file; its folder stays as it is.

    Raises:
        ConfigurationError: the file is missing, locked, damaged or not a swarm's; the message says what to
            do.
        StateError: there is no room for the copy.
    """
    is_wal = _is_in_wal_mode(path)
    with _failures_as_sentences(path), ExitStack() as stack:
        connection = stack.enter_context(closing(_temporary_database()))
        with ExitStack() as opened:
            address = _address(path.resolve(), opened, is_wal=is_wal)
            other_tables = _copy(connection, path, address)
        yield SwarmFile(connection, other_tables)


def _temporary_database() -> sqlite3.Connection:
    connection = sqlite3.connect("", uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
    connection.text_factory = _text
    return connection


def _copy(connection: sqlite3.Connection, path: Path, address: str) -> list[str]:
    """Copies the rows into the temporary database; the names of the other tables."""
    with closing(sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS)) as file:
        (encoding,) = file.execute(_ENCODING).fetchone()  # attached databases must share one
    connection.executescript(f"PRAGMA encoding = '{encoding}';{_PRAGMAS}")
    connection.execute(_ATTACH, (address,))
    tables = [name for (name,) in connection.execute(_TABLES)]
    check_columns(connection, path)
    connection.execute(_COPY)
    connection.execute(_DETACH)
    return [name for name in tables if name != _TABLE]


def check_columns(connection: sqlite3.Connection, path: Path) -> None:
    """Refuses a file that is not a swarm's."""
    found = {name for (name,) in connection.execute(_COLUMNS)}
    missing = [column for column in COLUMNS if column not in found]
    if missing:
        what = f"the columns {', '.join(missing)} of" if found else "the table"
        raise ConfigurationError(
            f"{path} is not a swarm's database: it lacks {what} {_TABLE}; give the file that the swarm "
            "records its outcomes in"
        )


def _address(path: Path, opened: ExitStack, *, is_wal: bool) -> str:
    """The URI by which SQLite opens the file, or a copy that lives until `opened` ends."""
    wal, shm = _beside(path, "-wal"), _beside(path, "-shm")
    if _size(wal) and not shm.exists():
        return f"{_copied(path, wal, opened).as_uri()}?mode=rw"
    if is_wal and not shm.exists():
        opened.enter_context(_unchanged(path, wal))
        return f"{path.as_uri()}?immutable=1"
    return f"{path.as_uri()}?mode=ro"


def _copied(path: Path, wal: Path, stack: ExitStack) -> Path:
    """A copy in a temporary folder, because reading the original, which is not open, would create -shm."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="learner-import-")))
    copy = folder / "copy.db"
    shutil.copyfile(path, copy)
    shutil.copyfile(wal, _beside(copy, "-wal"))
    return copy


@contextmanager
def _unchanged(path: Path, wal: Path) -> Iterator[None]:
    """Checks that an immutable file, which is read without locks, was not written meanwhile."""
    before = _signature(path)
    yield
    if _signature(path) != before or _size(wal):
        raise ConfigurationError(f"{path} was written to while it was read: repeat the command")


def _signature(path: Path) -> _SIGNATURE:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _is_in_wal_mode(path: Path) -> bool:
    """Looks at the file's header.

    Raises:
        ConfigurationError: it cannot be read, or is not a database.
    """
    try:
        if not path.is_file():
            kind = "not a regular file" if path.exists() else "no such file"
            raise ConfigurationError(f"cannot read {path}: {kind}")
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    if not header.startswith(_MAGIC):
        what = "it is empty" if not header else "it does not begin as one"
        raise ConfigurationError(f"{path} is not an SQLite database: {what}")
    return header[-1] == _WAL_VERSION


@contextmanager
def _failures_as_sentences(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        if _name(error) in _NOT_WRITTEN:
            raise no_room(error) from error
        raise ConfigurationError(_sentence(path, error)) from error


def _name(error: sqlite3.Error) -> str:
    """SQLite's name of the error; empty where Python raised it by itself."""
    return getattr(error, "sqlite_errorname", "")


def no_room(error: sqlite3.Error) -> StateError:
    """A temporary database could not be written."""
    return StateError(
        f"the temporary files of the import cannot be written ({error}): set SQLITE_TMPDIR to a folder with "
        "room for three times the size of the file"
    )


def _sentence(path: Path, error: sqlite3.DatabaseError) -> str:
    name = _name(error)
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"{path} is locked by another program: try again, or import a copy of it"
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")):
        return (
            f"{path} cannot be read without writing to it ({error}), as after a crash of the program that "
            "writes it: open it once with that program, or with `sqlite3`"
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return f"{path} is damaged or cut off ({error}): import an intact copy"
    return f"{path} cannot be read: {error}"


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")
