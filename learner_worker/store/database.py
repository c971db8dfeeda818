"""A SQLite file with two connections: one transaction at a time, and reads that never wait for it."""

import asyncio
import contextlib
import itertools
import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Self

import aiosqlite
import structlog

from learner_worker.errors import ClosedFileError, StateError
from learner_worker.store import formats
from learner_worker.store.formats import CHANGES, FormatChange
from learner_worker.store.statements import ROWS_AT_ONCE, SqlRow, rows_at_once, statement

_CONVERTED: Final = 500  # rows of a page: a few milliseconds in the file's thread, one in the event loop
_MAX_LOG_BYTES: Final = 16 * 2**20
"""A longer write-ahead log is emptied: SQLite itself starts it anew only in a moment without readers."""
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_PRIMARY: Final = 0xFF  # of an error code; the other bits say more, as those of SQLITE_CORRUPT_INDEX
_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    # Kafka holds every fact: a power cut may cost the last checkpoints, and then the shard reads them again.
    "PRAGMA synchronous = NORMAL",
    "PRAGMA cache_size = -8000",
    # Many builds of SQLite have it by default: what is deleted is overwritten, not only let go of.
    "PRAGMA secure_delete = ON",
)
_log = structlog.get_logger("learner_worker.store")


class Database:
    """An open file. Statements go by their names in queries.sql."""

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
        """Opens or makes the file, in today's format; a damaged one, or one of a newer format, is set aside.

        Raises:
            StateError: it cannot be read or written.
        """
        try:
            writer = await _open_or_set_aside(path, changes)
            reader = await _second_connection(path, writer)
            rows_to_convert = await formats.are_rows_to_convert(reader)
        except (sqlite3.Error, OSError) as error:
            raise StateError(
                f"cannot open {path}: {error}; check the state folder's disk and rights"
            ) from error
        return cls(path, writer, reader, changes, rows_to_convert=rows_to_convert)

    async def close(self) -> None:
        """Closes both connections, after the reads that have begun; later ones fail."""
        self._closed = True
        try:
            await self._reader.close()
        finally:
            await self._writer.close()

    async def read(self, name: str, *parameters: str | int) -> list[SqlRow]:
        """The rows of a statement.

        Raises:
            ClosedFileError: the file was closed.
            StateError: SQLite refused.
        """
        if self._closed:
            raise ClosedFileError(f"{self.path} is closed: its shard is being handed over")
        try:
            return [tuple(row) for row in await self._reader.execute_fetchall(statement(name), parameters)]
        except sqlite3.Error as error:
            raise self._failure("read", error) from error

    async def transact(self, writes: Iterable[tuple[str, Iterable[SqlRow]]]) -> None:
        """Runs statements, each with its rows, in one transaction.

        Raises:
            StateError: SQLite refused; nothing of it is in the file.
        """
        async with self._transaction():
            for name, rows in writes:
                await self._save(name, iter(rows))

    async def convert_page(self) -> bool:
        """Converts some of the rows that a change of the format has left; whether there may be more.

        Raises:
            StateError: SQLite refused; nothing of the page is in the file.
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
        """Many rows a statement where there are many: see `rows_at_once`."""
        while batch := list(itertools.islice(rows, ROWS_AT_ONCE)):
            if len(batch) == ROWS_AT_ONCE and (many := rows_at_once(name)) is not None:
                await self._writer.execute(many, list(itertools.chain.from_iterable(batch)))
            else:
                await self._writer.executemany(statement(name), batch)

    async def _bound_log(self) -> None:
        """Empties a log that has grown too long, waiting for the reads under way, not for later ones.

        What was committed stays committed if this fails; a disk that is full is the next transaction's error.
        """
        with contextlib.suppress(OSError, sqlite3.OperationalError):
            if self._log.stat().st_size > _MAX_LOG_BYTES:
                await self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _failure(self, what: str, error: sqlite3.Error) -> StateError:
        """The error for operators; a damaged file is moved away, so that a restart mends it."""
        if primary_code(error) in _DAMAGED and self.path.exists():
            _set_aside(self.path, "damaged", str(error))
            return StateError(
                f"{self.path} is damaged ({error}) and was set aside: restart, and it is rebuilt from Kafka"
            )
        return StateError(
            f"cannot {what} {self.path}: {error}; "
            "free disk space, or mend the disk or this user's rights to it, then restart"
        )


def primary_code(error: sqlite3.Error) -> int:
    """What kind of error it is, as sqlite3.SQLITE_CORRUPT; 0 for one that SQLite did not raise."""
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


async def _second_connection(path: Path, first: aiosqlite.Connection) -> aiosqlite.Connection:
    try:
        return await aiosqlite.connect(path, isolation_level=None)
    except BaseException:
        await first.close()
        raise


async def _open(path: Path, changes: Mapping[int, FormatChange]) -> aiosqlite.Connection:
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
