"""Disks: the real ShardFile on plain sqlite3, in memory; what was committed is what a crash leaves."""

import functools
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import cast

import aiosqlite

from learner_worker.contract.fields import ShardId
from learner_worker.store.database import Database
from learner_worker.store.shard_file import ShardFile

Latency = Callable[[], Awaitable[None]]


@functools.cache
def _empty() -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.executescript(
        resources.files("learner_worker.store").joinpath("schema.sql").read_text("utf-8")
    )
    return connection.serialize()


def new_database() -> sqlite3.Connection:
    """An empty file with the real schema."""
    return opened(_empty())


def opened(content: bytes) -> sqlite3.Connection:
    """A file with this content."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.deserialize(content)
    return connection


class Cursor:
    """What Database asks of an aiosqlite cursor."""

    def __init__(self, rows: list[tuple[object, ...]], latency: Latency) -> None:
        self._rows = rows
        self._latency = latency

    async def fetchmany(self, size: int) -> list[tuple[object, ...]]:
        await self._latency()
        page, self._rows = self._rows[:size], self._rows[size:]
        return page

    async def close(self) -> None:
        self._rows = []


class Connection:
    """What Database asks of an aiosqlite connection; a transaction shows to readers when it commits."""

    def __init__(self, database: sqlite3.Connection, latency: Latency, alive: Callable[[], bool]) -> None:
        self._database = database
        self._latency = latency
        self._alive = alive
        self._transaction: list[tuple[str, list[Sequence[object]]]] | None = None
        self._closed = False

    @property
    def is_open(self) -> bool:
        """Whether a living process could still write."""
        return not self._closed and self._alive()

    async def execute(self, sql: str, parameters: Sequence[object] = ()) -> "Cursor":
        if "\nSELECT" in sql:
            return Cursor(await self.execute_fetchall(sql, parameters), self._latency)
        await self._execute(sql, parameters)
        return Cursor([], self._latency)

    async def _execute(self, sql: str, parameters: Sequence[object]) -> None:
        self._require_open()
        if parameters:
            await self.executemany(sql, [parameters])
        if not self._alive() or parameters:
            return
        await self._latency()
        if sql.startswith("BEGIN"):
            self._transaction = []
        elif sql == "COMMIT":
            self._commit()
            await self._latency()

    async def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        if self._alive() and self._transaction is not None:
            await self._latency()
            self._transaction.append((sql, list(rows)))

    async def execute_fetchall(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        self._require_open()
        await self._latency()
        rows = self._database.execute(sql, tuple(parameters)).fetchall()
        await self._latency()
        return rows

    def has_run(self, sql: str) -> bool:
        """Whether the open transaction has rows of such a statement."""
        return any(rows for text, rows in self._transaction or () if sql in text)

    async def rollback(self) -> None:
        self._transaction = None

    async def close(self) -> None:
        self._transaction = None
        self._closed = True

    def _require_open(self) -> None:
        if self._closed:
            raise ValueError("no active connection")  # as aiosqlite

    def _commit(self) -> None:
        writes, self._transaction = self._transaction or [], None
        self._database.execute("BEGIN IMMEDIATE")
        for sql, rows in writes:
            self._database.executemany(sql, rows)
        self._database.execute("COMMIT")


class Disk:
    """A worker's state folder."""

    def __init__(self) -> None:
        self.databases: dict[int, sqlite3.Connection] = {}
        self.copies: dict[Path, bytes] = {}
        self.violations: list[str] = []
        self._writers: dict[int, Connection] = {}

    @property
    def open_shards(self) -> list[int]:
        """The shards whose files are open."""
        return [shard for shard, writer in self._writers.items() if writer.is_open]

    def writing(self, shard: int, sql: str) -> bool:
        """Whether a transaction is open that has run such a statement with rows."""
        writer = self._writers.get(shard)
        return writer is not None and writer.is_open and writer.has_run(sql)

    def open(self, shard: ShardId, latency: Latency, alive: Callable[[], bool]) -> ShardFile:
        """Opens a shard's file, or makes it."""
        if shard not in self.databases:
            self.databases[shard] = new_database()
        if shard in self.open_shards:
            self.violations.append(f"the file of shard {shard} is open twice")
        database = self.databases[shard]
        self._writers[shard] = Connection(database, latency, alive)
        writer = cast("aiosqlite.Connection", self._writers[shard])
        reader = cast("aiosqlite.Connection", Connection(database, latency, alive))
        return ShardFile(Database(Path(f"shard-{shard}"), writer, reader))

    def lose(self) -> None:
        """The disk is gone; the next one is empty."""
        self.databases = {}
        self.copies = {}
