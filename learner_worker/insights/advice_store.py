"""The advice log in a temporary SQLite file, by agent: the newest answers to each."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import aiosqlite
from aiokafka import TopicPartition

from learner_worker.contract.advice import AdviceRecord, decode_advice
from learner_worker.contract.fields import AgentId
from learner_worker.contract.times import parse_time
from learner_worker.insights.temporary_file import temporary_database
from learner_worker.kafka.records import Record

ANSWERS: Final = 200  # kept of an agent: each one's auction is read when the agent's page is asked for
_CACHE_KIB = 16 * 1024  # reads are rare, and an agent's answers are adjacent in the file
_CREATE = """
CREATE TABLE advice (
    agent_id TEXT NOT NULL,
    advised_at INTEGER NOT NULL,    -- microseconds since 1970
    from_partition INTEGER NOT NULL,
    from_offset INTEGER NOT NULL,   -- after a reshard an agent's records are in two partitions
    value BLOB NOT NULL,            -- the record's value
    PRIMARY KEY (agent_id, advised_at, from_partition, from_offset)
) WITHOUT ROWID
"""
_PUT = "INSERT OR REPLACE INTO advice VALUES (?, ?, ?, ?, ?)"
_TRIM = """
DELETE FROM advice WHERE agent_id = ?1 AND (advised_at, from_partition, from_offset) <= (
    SELECT advised_at, from_partition, from_offset FROM advice WHERE agent_id = ?1
    ORDER BY advised_at DESC, from_partition DESC, from_offset DESC LIMIT 1 OFFSET ?2
)
"""
_NEWEST = """
SELECT value FROM advice WHERE agent_id = ?
ORDER BY advised_at DESC, from_partition DESC, from_offset DESC
"""
_EXPIRE = "DELETE FROM advice WHERE from_partition = ? AND from_offset < ?"


class AdviceStore:
    """The newest answers of every agent in the advice log."""

    def __init__(self, database: aiosqlite.Connection) -> None:
        self._database = database

    async def take(self, records: Iterable[Record]) -> None:
        """Takes records of the log; those that cannot be read are skipped."""
        rows = [
            (advice.agent_id, parse_time(advice.advised_at), record.partition, record.offset, record.value)
            for record in records
            if (advice := decode_advice(record.value)) is not None
        ]
        await self._database.executemany(_PUT, rows)
        agents = {agent_id for agent_id, *_ in rows}
        await self._database.executemany(_TRIM, [(agent_id, ANSWERS) for agent_id in agents])
        await self._database.commit()

    async def newest_of(self, agent_id: AgentId) -> Sequence[AdviceRecord]:
        """An agent's answers, the newest first."""
        rows = await self._database.execute_fetchall(_NEWEST, (agent_id,))
        return [advice for (value,) in rows if (advice := decode_advice(value)) is not None]

    async def expire(self, starts: Mapping[TopicPartition, int]) -> None:
        """Deletes what Kafka no longer has: everything before the first offset of each partition."""
        await self._database.executemany(_EXPIRE, [(at.partition, first) for at, first in starts.items()])
        await self._database.commit()

    async def clear(self) -> None:
        """Deletes everything."""
        await self._database.execute("DELETE FROM advice")
        await self._database.commit()


@asynccontextmanager
async def advice_store() -> AsyncIterator[AdviceStore]:
    """Opens an empty store."""
    async with temporary_database((_CREATE,), cache_kib=_CACHE_KIB) as database:
        yield AdviceStore(database)
