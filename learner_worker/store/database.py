"""A SQLite file with two connections: one transaction at a time, and reads that never wait for it."""

import asyncio
import contextlib
import itertools
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Self

import aiosqlite
import structlog

from learner_worker.errors import ClosedFileError, StateError
from learner_worker.store import formats
from learner_worker.store.formats import CHANGES, FormatChange
from learner_worker.store.obstacles import obstacle
from learner_worker.store.permissions import private_file
from learner_worker.store.statements import ROWS_AT_ONCE, SqlRow, rows_at_once, statement

_CONVERTED: Final = 500  # rows of a page: more would hold the file's thread while answers wait
_MAX_LOG_BYTES: Final = 16 * 2**20
"""A longer write-ahead log is truncated: SQLite itself restarts it only when there are no readers."""
_WRITE_WAIT_MS = 5_000  # for another connection's lock: SQLite's wrapper in Python has the same default
_READ_WAIT_MS = 100  # for readers: a copy of the file is one long read, and a checkpoint must not wait for it
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_PRIMARY: Final = 0xFF  # the bits of the primary result code; the others hold the extended one
_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    # Kafka holds every fact: if a power failure loses the last checkpoints, the shard reads them again.
    "PRAGMA synchronous = NORMAL",
    "PRAGMA cache_size = -8000",
    # Overwrites deleted content with zeros. Many builds of SQLite have it by default, but not all.
    "PRAGMA secure_delete = ON",
)
_log = structlog.get_logger("learner_worker.store")


class Database:
    """An open SQLite file. Statements are given by their names in queries.sql."""

    def __init__(
        self,
        path: Path,
        writer: aiosqlite.Connection,
        reader: aiosqlite.Connection,
        changes: Mapping[int, FormatChange] = CHANGES,
        *,
        rows_to_convert: bool = False,
    ) -> None:
        self.path = path
        self._writer = writer
        self._reader = reader
        self._changes = changes
        self._rows_to_convert = rows_to_convert
        self._turn = asyncio.Lock()
        self._closed = False
        self._log = path.with_name(f"{path.name}-wal")

    @classmethod
    async def open(cls, path: Path, changes: Mapping[int, FormatChange] = CHANGES) -> Self:
        """Opens or creates the file in the current format; sets aside a damaged one or one of a newer format.

        Raises:
            StateError: it cannot be read or written.
        """
        try:
            writer = await _open_or_set_aside(path, changes)
            reader, rows_to_convert = await _second_connection(path, writer)
        except (sqlite3.Error, OSError) as error:
            raise StateError(f"cannot open {path} ({obstacle(path, error)})") from error
        return cls(path, writer, reader, changes, rows_to_convert=rows_to_convert)

    async def close(self) -> None:
        """Closes both connections after the reads in progress; later reads fail."""
        self._closed = True
        try:
            await self._reader.close()
        finally:
            await self._writer.close()

    async def read(self, name: str, *parameters: str | int) -> list[SqlRow]:
        """Runs a query; returns its rows.

        Raises:
            ClosedFileError: the file was closed.
            StateError: SQLite refused.
        """
        if self._closed:
            raise self._closed_error()
        try:
            return [tuple(row) for row in await self._reader.execute_fetchall(statement(name), parameters)]
        except sqlite3.Error as error:
            raise self._failure("read", error) from error

    async def read_in_pages(
        self, name: str, rows: int, *parameters: str | int
    ) -> AsyncGenerator[list[SqlRow], None]:
        """Runs a query and yields its rows, `rows` at a time: a long result does not hold the event loop.

        Raises:
            ClosedFileError: the file was closed.
            StateError: SQLite refused.
        """
        if self._closed:
            raise self._closed_error()
        try:
            cursor = await self._reader.execute(statement(name), parameters)
            try:
                while page := [tuple(row) for row in await cursor.fetchmany(rows)]:
                    yield page
                    if len(page) < rows:
                        return
            finally:
                await cursor.close()
        except sqlite3.Error as error:
            raise self._failure("read", error) from error
        except ValueError as error:  # aiosqlite's, for a connection that was closed meanwhile
            raise self._closed_error() from error

    async def transact(self, writes: Iterable[tuple[str, Iterable[SqlRow]]]) -> None:
        """Runs statements, each with its rows, in one transaction.

        Raises:
            StateError: SQLite refused; the file is unchanged.
        """
        async with self._transaction():
            for name, rows in writes:
                await self._save(name, iter(rows))

    async def convert_page(self) -> bool:
        """Converts some of the rows left by a change of the format; returns whether there may be more.

        Raises:
            StateError: SQLite refused; the file is unchanged.
        """
        if self._rows_to_convert:
            async with self._transaction():
                more = await formats.convert_page(self._writer, _CONVERTED, self._changes)
            self._rows_to_convert = more
        return self._rows_to_convert

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        async with self._turn:
            try:
                await self._writer.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    await self._writer.execute("COMMIT")
                except BaseException:
                    await self._writer.rollback()
                    raise
            except sqlite3.Error as error:
                raise self._failure("write", error) from error
            await self._bound_log()

    async def _save(self, name: str, rows: Iterator[SqlRow]) -> None:
        """Runs a statement for all rows, many at a time if possible: see `rows_at_once`."""
        while batch := list(itertools.islice(rows, ROWS_AT_ONCE)):
            if len(batch) == ROWS_AT_ONCE and (many := rows_at_once(name)) is not None:
                await self._writer.execute(many, list(itertools.chain.from_iterable(batch)))
            else:
                await self._writer.executemany(statement(name), batch)

    async def _bound_log(self) -> None:
        """Truncates a log that has grown too long; waits for short reads in progress, not for later ones.

        During a long read the log keeps growing until a later transaction truncates it. A failure does not
        affect what was committed; the next transaction reports a full disk.
        """
        with contextlib.suppress(OSError, sqlite3.OperationalError):
            if self._log.stat().st_size > _MAX_LOG_BYTES:
                await self._writer.execute(f"PRAGMA busy_timeout = {_READ_WAIT_MS}")
                try:
                    await self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                finally:
                    await self._writer.execute(f"PRAGMA busy_timeout = {_WRITE_WAIT_MS}")

    def _closed_error(self) -> ClosedFileError:
        return ClosedFileError(f"{self.path} is closed: its shard is being handed over")

    def _failure(self, what: str, error: sqlite3.Error) -> StateError:
        """Makes the error for operators; sets a damaged file aside, so that a restart rebuilds it."""
        if primary_code(error) in _DAMAGED and self.path.exists():
            _set_aside(self.path, "damaged", str(error))
            return StateError(
                f"{self.path} is damaged ({error}) and was set aside: restart to rebuild it from Kafka"
            )
        return StateError(f"cannot {what} {self.path} ({obstacle(self.path, error)}), then restart")


def primary_code(error: sqlite3.Error) -> int:
    """The error's primary result code, such as sqlite3.SQLITE_CORRUPT; 0 if SQLite did not raise it."""
    return int(getattr(error, "sqlite_errorcode", 0)) & _PRIMARY


async def _open_or_set_aside(path: Path, changes: Mapping[int, FormatChange]) -> aiosqlite.Connection:
    try:
        connection = await _open(path, changes)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        _set_aside(path, "damaged", str(error))
        return await _open(path, changes)
    found, newest = await formats.format_of(connection), max(changes)
    if found > newest:
        await connection.close()
        _set_aside(path, "newer", f"format {found}, this worker writes {newest}")
        return await _open(path, changes)
    return connection


async def _second_connection(path: Path, first: aiosqlite.Connection) -> tuple[aiosqlite.Connection, bool]:
    """Opens the connection for reads, and says whether rows are to be converted.

    A failure closes both: each has a thread, and the process would not end before them.
    """
    try:
        second = await aiosqlite.connect(path, isolation_level=None)
        try:
            return second, await formats.are_rows_to_convert(second)
        except BaseException:
            await second.close()
            raise
    except BaseException:
        await first.close()
        raise


async def _open(path: Path, changes: Mapping[int, FormatChange]) -> aiosqlite.Connection:
    private_file(path)
    connection = await aiosqlite.connect(path, isolation_level=None)
    try:
        for pragma in _PRAGMAS:
            await connection.execute(pragma)
        await formats.bring_up_to_date(connection, changes)
    except BaseException:
        await connection.close()
        raise
    return connection


def _set_aside(path: Path, why: str, detail: str) -> None:
    kept = path.with_suffix(f".{why}")
    path.replace(kept)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    _log.warning("store.file_set_aside", path=str(path), kept_as=str(kept), why=why, detail=detail)
