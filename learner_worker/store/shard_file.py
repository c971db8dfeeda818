"""A shard's SQLite file: opened, migrated, read in batches, written one checkpoint at a time."""

import asyncio
import contextlib
import itertools
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Final, Self

import aiosqlite
import msgspec
import structlog

from learner_worker.contract.fields import AgentId, ShardId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.domain.agents import AgentRow
from learner_worker.domain.auctions import AuctionState
from learner_worker.domain.keywords import Tally, tally_of
from learner_worker.domain.outcomes import Cutoff, Outcome, OutcomeKey
from learner_worker.errors import ClosedFileError, ConfigurationError, StateError
from learner_worker.store.statements import (
    ROWS_AT_ONCE,
    Checkpoint,
    SqlRow,
    agent_of,
    auction_of,
    ids_parameter,
    keyword_of,
    outcome_of,
    pairs_parameter,
    rows_at_once,
    statement,
    writes_of,
)

FORMAT: Final = 3
_BATCH = 500
_SCANNED = 5_000
"""Rows looked at in one read: about two milliseconds, in the file's own thread."""
_MAX_LOG_BYTES = 16 * 2**20
"""A longer write-ahead log is emptied: SQLite itself starts it anew only in a moment without readers."""
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_PRIMARY = 0xFF
"""Of an error's code; the rest says more closely which one it is, as SQLITE_CORRUPT_INDEX."""
_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    # Kafka holds every fact: a power cut may cost the last checkpoints, and then the shard reads them again.
    "PRAGMA synchronous = NORMAL",
    "PRAGMA cache_size = -8000",
    # Many builds of SQLite have it by default: what is deleted is overwritten, not only let go of.
    "PRAGMA secure_delete = ON",
)
_log = structlog.get_logger("learner_worker.store")


def shard_path(state_dir: Path, shard: ShardId) -> Path:
    """Where a shard's file lies."""
    return state_dir / f"shard-{shard:05d}.sqlite3"


def shard_identity(*, cluster_id: str, topic_prefix: str, partitions: int, shard: ShardId) -> dict[str, str]:
    """Whose a shard's file is."""
    return {
        "cluster_id": cluster_id,
        "topic_prefix": topic_prefix,
        "partitions": str(partitions),
        "shard": str(shard),
    }


class ShardFile:
    """An open file. One task writes checkpoints; reads have a connection of their own and never wait."""

    def __init__(self, path: Path, writer: aiosqlite.Connection, reader: aiosqlite.Connection) -> None:
        self.path = path
        self._writer = writer
        self._reader = reader
        self._transaction = asyncio.Lock()
        self._closed = False
        self._log = path.with_name(f"{path.name}-wal")

    @classmethod
    async def open(cls, path: Path, identity: dict[str, str]) -> Self:
        """Opens or makes the file; a damaged one, or one of a newer format, is set aside.

        Raises:
            ConfigurationError: the file belongs to another cluster, prefix or partition count.
            StateError: it cannot be read or written.
        """
        try:
            writer = await _open_or_set_aside(path)
            reader = await _second_connection(path, writer)
        except (sqlite3.Error, OSError) as error:
            raise StateError(
                f"cannot open {path}: {error}; check the state folder's disk and rights"
            ) from error
        file = cls(path, writer, reader)
        try:
            await file._claim(identity)
        except BaseException:
            await file.close()
            raise
        return file

    async def close(self) -> None:
        """Closes both connections, after the reads that have begun; later ones fail."""
        self._closed = True
        try:
            await self._reader.close()
        finally:
            await self._writer.close()

    async def load_positions(self) -> dict[str, int]:
        """The next offset by topic; empty for a new file."""
        rows = await self._read("load_positions")
        return {str(topic): int(str(offset)) for topic, offset in rows}

    async def load_auctions(self) -> dict[TaskId, AuctionState]:
        """Everything settle remembered, in pages: 200,000 at once kept the event loop for a second."""
        found: dict[TaskId, AuctionState] = {}
        last = ""
        while rows := await self._read("load_auctions", last, _BATCH):
            found.update(map(auction_of, rows))
            last = str(rows[-1][0])
        return found

    async def load_outcomes(self, keys: Sequence[OutcomeKey]) -> dict[OutcomeKey, Outcome]:
        """The rows of the given (task, agent) pairs; missing ones are left out."""
        found: dict[OutcomeKey, Outcome] = {}
        for start in range(0, len(keys), _BATCH):
            rows = await self._read("load_outcomes", pairs_parameter(keys[start : start + _BATCH]))
            found.update(((row.task_id, row.agent_id), row) for row in map(outcome_of, rows))
        return found

    async def all_outcomes(self) -> AsyncIterator[list[Outcome]]:
        """Every row, in pages."""
        task_id, agent_id = "", ""
        while rows := await self._read("load_outcomes_after", task_id, agent_id, _BATCH):
            page = [outcome_of(row) for row in rows]
            yield page
            task_id, agent_id = page[-1].task_id, page[-1].agent_id

    async def load_cutoff(self) -> Cutoff | None:
        """Before which times parts of outcomes have expired; None: nothing was ever forgotten.

        Rows may still hold such parts until they are swept: compare what is `living` under it.
        """
        for row in await self._read("load_cutoff"):
            return msgspec.convert(row, Cutoff)
        return None

    async def expired_after(
        self, after: OutcomeKey | None, cutoff: Cutoff, *, scanned: int, limit: int
    ) -> tuple[list[OutcomeKey], OutcomeKey | None]:
        """Rows with an expired part, among the next so many in the order of their keys.

        An index on the times would cost every insert about a tenth, and a quarter more space, also where
        nothing is ever forgotten. Looking at a row costs half a microsecond.

        Returns:
            At most `limit` keys, and the key to go on after; None at the table's end.
        """
        first = after or ("", "")
        page_end = await self._read("load_page_end", *first, scanned - 1)
        last = page_end or await self._read("load_last_key")
        if not last:
            return [], None
        times = (cutoff.closes, cutoff.others, cutoff.others)
        found = await self._read("load_expired", *first, *map(str, last[0]), *times, limit)
        keys = [msgspec.convert(row, OutcomeKey) for row in found]
        if len(keys) == limit:
            return keys, keys[-1]
        return keys, msgspec.convert(page_end[0], OutcomeKey) if page_end else None

    async def load_forgotten(self) -> dict[AgentId, Micros]:
        """Until when agents are forgotten."""
        return dict(msgspec.convert(await self._read("load_forgotten"), list[tuple[AgentId, Micros]]))

    async def keys_of_agents(self, ids: Sequence[AgentId]) -> AsyncIterator[list[OutcomeKey]]:
        """The keys of all rows of some agents, in pages.

        Every row is looked at: an index by agent would cost every insert, for something that is rare.
        """
        parameter, after = ids_parameter(ids), ("", "")
        while last := await self._page_end(after, _SCANNED):
            found = await self._read("load_keys_of_agents", *after, *last, parameter)
            yield [msgspec.convert(row, OutcomeKey) for row in found]
            after = last

    async def _page_end(self, after: tuple[str, str], scanned: int) -> tuple[str, str] | None:
        """The key that so many rows lead to, or the table's last; None if none comes after."""
        rows = await self._read("load_page_end", *after, scanned - 1) or await self._read("load_last_key")
        last = (str(rows[0][0]), str(rows[0][1])) if rows else after
        return last if last > after else None

    async def load_agents(self, ids: Sequence[AgentId]) -> dict[AgentId, tuple[AgentRow, dict[str, Tally]]]:
        """The metrics and keywords of the given agents; unknown ones are left out."""
        parameter = ids_parameter(ids)
        found: dict[AgentId, tuple[AgentRow, dict[str, Tally]]] = {
            agent_id: (row, {}) for agent_id, row in map(agent_of, await self._read("load_agents", parameter))
        }
        for row in map(keyword_of, await self._read("load_keywords", parameter)):
            if row.agent_id in found:
                # Words and small counts repeat from agent to agent: shared, they take a third of the memory.
                found[row.agent_id][1][sys.intern(row.keyword)] = tally_of(row.wins, row.failures)
        return found

    async def load_unpublished(self) -> set[AgentId]:
        """The agents whose metrics record is still to be written."""
        return {msgspec.convert(agent_id, AgentId) for (agent_id,) in await self._read("load_unpublished")}

    async def write(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint's rows and positions in one transaction.

        Raises:
            StateError: SQLite refused; nothing of the checkpoint is in the file.
        """
        await self._in_transaction(writes_of(checkpoint))

    async def rewind(self, positions: Mapping[TopicName, int]) -> None:
        """Drops what settle remembered and notes where it is read anew from, in one transaction.

        A file without its auctions but with its old positions would look whole to the next start.
        """
        await self._in_transaction([("delete_auctions", [()]), ("save_position", list(positions.items()))])

    async def _read(self, name: str, *parameters: str | int) -> list[SqlRow]:
        if self._closed:
            raise ClosedFileError(f"{self.path} is closed: its shard is being handed over")
        try:
            return [tuple(row) for row in await self._reader.execute_fetchall(statement(name), parameters)]
        except sqlite3.Error as error:
            raise self._failure("read", error) from error

    async def _in_transaction(self, writes: Iterable[tuple[str, Iterable[SqlRow]]]) -> None:
        async with self._transaction:
            try:
                await self._writer.execute("BEGIN IMMEDIATE")
                try:
                    for name, rows in writes:
                        await self._save(name, iter(rows))
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
        code: int = getattr(error, "sqlite_errorcode", 0)
        if code & _PRIMARY in _DAMAGED and self.path.exists():
            _set_aside(self.path, "damaged", str(error))
            return StateError(
                f"{self.path} is damaged ({error}) and was set aside: restart, and it is rebuilt from Kafka"
            )
        return StateError(
            f"cannot {what} {self.path}: {error}; "
            "free disk space, or mend the disk or this user's rights to it, then restart"
        )

    async def _claim(self, identity: dict[str, str]) -> None:
        found = {str(name): str(value) for name, value in await self._read("load_identity")}
        if not found:
            await self._in_transaction([("save_identity", list(identity.items()))])
            return
        for name, expected in identity.items():
            if found.get(name) != expected:
                raise ConfigurationError(
                    f"{self.path} belongs to {name} {found.get(name)!r}, this worker to {expected!r}: "
                    "give the worker another --state-dir, or move that file away (it is rebuilt from Kafka)"
                )


async def _open_or_set_aside(path: Path) -> aiosqlite.Connection:
    try:
        connection = await _open(path)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        _set_aside(path, "damaged", str(error))
        return await _open(path)
    version = await _version(connection)
    if version > FORMAT:
        await connection.close()
        _set_aside(path, "newer", f"format {version}, this worker writes {FORMAT}")
        return await _open(path)
    return connection


async def _second_connection(path: Path, first: aiosqlite.Connection) -> aiosqlite.Connection:
    try:
        return await aiosqlite.connect(path, isolation_level=None)
    except BaseException:
        await first.close()
        raise


async def _open(path: Path) -> aiosqlite.Connection:
    connection = await aiosqlite.connect(path, isolation_level=None)
    try:
        for pragma in _PRAGMAS:
            await connection.execute(pragma)
        await _migrate(connection)
    except BaseException:
        await connection.close()
        raise
    return connection


async def _version(connection: aiosqlite.Connection) -> int:
    ((version,),) = await connection.execute_fetchall("PRAGMA user_version")
    return int(version)


async def _migrate(connection: aiosqlite.Connection) -> None:
    """Brings a file to this format: each step is one transaction that also writes the version."""
    version = await _version(connection)
    if version == 0:
        await _run_script(connection, "schema.sql", FORMAT)
    for step in range(max(version, 1) + 1, FORMAT + 1):
        if version:
            await _run_script(connection, f"migrations/{step:04d}.sql", step)


async def _run_script(connection: aiosqlite.Connection, name: str, version: int) -> None:
    script = resources.files(__package__).joinpath(name).read_text("utf-8")
    await connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {version};\nCOMMIT;")


def _set_aside(path: Path, why: str, detail: str) -> None:
    kept = path.with_suffix(f".{why}")
    path.replace(kept)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    _log.warning("store.file_set_aside", path=str(path), kept_as=str(kept), why=why, detail=detail)
