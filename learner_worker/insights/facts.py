"""The changelog by agent, in a temporary SQLite file: one agent's records are read in a single range scan.

Kafka can be read by offset only, so an agent's records would cost a fetch each, or a read of the whole
partition. Nothing is joined here: rows are the changelog's own values, and tombstones delete them.
"""

import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from hashlib import blake2b
from pathlib import Path

import aiosqlite

from learner_worker.contract.facts import agent_of_key
from learner_worker.contract.fields import AgentId
from learner_worker.kafka.records import Record

_KEY_BYTES = 16  # of a digest: two of any number of keys will never be the same
_SETTINGS = (
    "PRAGMA journal_mode = OFF",  # after any failure the file is of no use, and goes with the process
    "PRAGMA synchronous = OFF",
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA cache_size = -65536",  # KiB: rows are inserted all over the file, and memory stays bounded
)
_CREATE = """
CREATE TABLE facts (
    agent_id TEXT NOT NULL,
    key BLOB NOT NULL,    -- a digest of the record's key
    value BLOB NOT NULL,  -- the record's value
    PRIMARY KEY (agent_id, key)
) WITHOUT ROWID
"""
_PUT = "INSERT OR REPLACE INTO facts (agent_id, key, value) VALUES (?, ?, ?)"
_DELETE = "DELETE FROM facts WHERE agent_id = ? AND key = ?"
_VALUES = "SELECT value FROM facts WHERE agent_id = ?"

_Key = tuple[AgentId, bytes]


class FactStore:
    """The standing records of the changelog, by agent."""

    def __init__(self, database: aiosqlite.Connection) -> None:
        self._database = database

    async def take(self, records: Iterable[Record]) -> None:
        """Takes records of the changelog, in their order; those without a learner's key are skipped."""
        latest: dict[_Key, bytes | None] = {}
        for record in records:
            agent_id = agent_of_key(record.key)
            if agent_id is not None:
                latest[agent_id, _digest(record.key or b"")] = record.value
        put = [(*key, value) for key, value in latest.items() if value is not None]
        await self._database.executemany(_PUT, put)
        await self._database.executemany(_DELETE, [key for key, value in latest.items() if value is None])
        await self._database.commit()

    async def values_of(self, agent_id: AgentId) -> list[bytes]:
        """The values of an agent's records."""
        return [value for (value,) in await self._database.execute_fetchall(_VALUES, (agent_id,))]


def _digest(key: bytes) -> bytes:
    return blake2b(key, digest_size=_KEY_BYTES).digest()


@asynccontextmanager
async def fact_store() -> AsyncIterator[FactStore]:
    """Opens an empty store, in a folder of its own that is deleted on exit."""
    with tempfile.TemporaryDirectory(prefix="learner-insights-") as folder:
        async with aiosqlite.connect(Path(folder) / "facts.sqlite3") as database:
            for statement in (*_SETTINGS, _CREATE):
                await database.execute(statement)
            await database.commit()
            yield FactStore(database)
