"""The changelog by agent and by task, in a temporary SQLite file: records of either are one range scan.

Kafka can be read by offset only, so an agent's records would cost a fetch each, or a read of the whole
partition. Nothing is joined here: rows are the changelog's own values, and tombstones delete them.
"""

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from hashlib import blake2b
from itertools import pairwise
from typing import Final, NamedTuple

import aiosqlite

from learner_worker.contract.facts import parts_of_key
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.insights.temporary_file import temporary_database
from learner_worker.kafka.records import Record

_KEY_BYTES = 16  # of a digest: two of any number of keys will never be the same
CACHE_KIB: Final = 64 * 1024  # rows are inserted all over the file, and memory stays bounded
FACTS: Final = """
CREATE TABLE facts (
    agent_id TEXT NOT NULL,
    key BLOB NOT NULL,    -- a digest of the record's key
    task_id TEXT,         -- NULL for a marker that forgets the agent
    closed_at INTEGER,    -- of the close that a fact carries; NULL without one
    value BLOB NOT NULL,  -- the record's value
    PRIMARY KEY (agent_id, key)
) WITHOUT ROWID
"""
INDEXES: Final = (
    "CREATE INDEX by_task ON facts (task_id, agent_id)",
    "CREATE INDEX by_close ON facts (closed_at, task_id)",
)
"""The indexes for the pages of auctions."""
_PUT = "INSERT OR REPLACE INTO facts (agent_id, key, task_id, closed_at, value) VALUES (?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM facts WHERE agent_id = ? AND key = ?"
_VALUES = "SELECT value FROM facts WHERE agent_id = ?"
_OF_TASK = "SELECT value FROM facts WHERE task_id = ? ORDER BY agent_id LIMIT ?"
_OF_TASKS = """
SELECT facts.value FROM json_each(?) AS wanted CROSS JOIN facts ON facts.task_id = wanted.value
"""
_COUNTS = """
WITH RECURSIVE counted (tasks, facts) AS (
    VALUES (0, 0)
    UNION ALL
    SELECT tasks + 1, facts + (
        SELECT count(*) FROM (SELECT 1 FROM facts WHERE task_id = :wanted ->> counted.tasks LIMIT :limit)
    )
    FROM counted WHERE tasks < json_array_length(:wanted) AND facts < :in_total
)
SELECT facts FROM counted ORDER BY tasks
"""  # of the first task, of the first two, and so on
_MARKERS_OF_TASK = (
    "SELECT value FROM facts WHERE task_id IS NULL "
    "AND agent_id IN (SELECT agent_id FROM facts WHERE task_id = ? ORDER BY agent_id LIMIT ?)"
)
_MARKERS_OF_TASKS = (
    "SELECT value FROM facts WHERE task_id IS NULL "
    "AND agent_id IN (SELECT agent_id FROM facts WHERE task_id IN (SELECT value FROM json_each(?)))"
)
_CLOSED_BEFORE = """
WITH RECURSIVE last (closed_at, task_id) AS (
    VALUES (?, ?)
    UNION ALL
    SELECT (
        SELECT closed_at FROM facts WHERE (closed_at, task_id) < (last.closed_at, last.task_id)
        ORDER BY closed_at DESC, task_id DESC LIMIT 1
    ), (
        SELECT task_id FROM facts WHERE (closed_at, task_id) < (last.closed_at, last.task_id)
        ORDER BY closed_at DESC, task_id DESC LIMIT 1
    )
    FROM last WHERE last.closed_at IS NOT NULL
)
SELECT closed_at, task_id FROM last WHERE closed_at IS NOT NULL LIMIT ? OFFSET 1
"""  # two seeks a task, however many facts it has

_Key = tuple[AgentId, bytes]
_Row = tuple[TaskId | None, Micros | None, bytes]


class ClosedTask(NamedTuple):
    """A task, and when its auction closed, as one of its closes says."""

    closed_at: Micros
    task_id: TaskId


class TaskValues(NamedTuple):
    """The values of a task's records, and of the markers that forget its agents.

    Attributes:
        whole: whether these are all of them.
    """

    values: Sequence[bytes]
    whole: bool


class FactStore:
    """The standing records of the changelog, by agent."""

    def __init__(self, database: aiosqlite.Connection) -> None:
        self._database = database

    async def take(self, records: Iterable[Record]) -> None:
        """Takes records of the changelog, in their order; those without a learner's key are skipped."""
        latest: dict[_Key, _Row | None] = {}
        for record in records:
            parts = parts_of_key(record.key)
            if parts is not None:
                value = record.value
                row = None if value is None else (parts.task_id, parts.closed_at, value)
                latest[parts.agent_id, _digest(record.key or b"")] = row
        put = [(*key, *row) for key, row in latest.items() if row is not None]
        await self._database.executemany(_PUT, put)
        await self._database.executemany(_DELETE, [key for key, row in latest.items() if row is None])
        await self._database.commit()

    async def values_of(self, agent_id: AgentId) -> list[bytes]:
        """The values of an agent's records."""
        return [value for (value,) in await self._database.execute_fetchall(_VALUES, (agent_id,))]

    async def values_of_task(self, task_id: TaskId, limit: int) -> TaskValues:
        """The values of a task's records, at most `limit` of them."""
        rows = list(await self._database.execute_fetchall(_OF_TASK, (task_id, limit + 1)))
        markers = await self._database.execute_fetchall(_MARKERS_OF_TASK, (task_id, limit))
        return TaskValues([value for (value,) in (*rows[:limit], *markers)], whole=len(rows) <= limit)

    async def counts_of(self, tasks: Iterable[TaskId], limit: int, *, in_total: int) -> dict[TaskId, int]:
        """How many records each of the first tasks has, in their order.

        Args:
            limit: of no task more records are counted.
            in_total: once so many records are counted, the tasks that follow are left out.
        """
        each = list(dict.fromkeys(tasks))
        bounds = {"wanted": _in_json(each), "limit": limit, "in_total": in_total}
        sums = [count for (count,) in await self._database.execute_fetchall(_COUNTS, bounds)]
        return {task: after - before for task, (before, after) in zip(each, pairwise(sums), strict=False)}

    async def values_of_tasks(self, tasks: Iterable[TaskId]) -> list[bytes]:
        """The values of all records of some tasks, and of the markers that forget their agents."""
        wanted = _in_json(tasks)
        rows = await self._database.execute_fetchall(_OF_TASKS, (wanted,))
        markers = await self._database.execute_fetchall(_MARKERS_OF_TASKS, (wanted,))
        return [value for (value,) in (*rows, *markers)]

    async def closed_before(self, task: ClosedTask, count: int) -> list[ClosedTask]:
        """The tasks whose auctions closed last before another's; at equal times the next smaller id."""
        rows = await self._database.execute_fetchall(_CLOSED_BEFORE, (*task, count))
        return [ClosedTask(Micros(closed_at), TaskId(task_id)) for closed_at, task_id in rows]


def _in_json(tasks: Iterable[TaskId]) -> str:
    return json.dumps(list(tasks))


def _digest(key: bytes) -> bytes:
    return blake2b(key, digest_size=_KEY_BYTES).digest()


@asynccontextmanager
async def fact_store() -> AsyncIterator[FactStore]:
    """Opens an empty store."""
    async with temporary_database((FACTS, *INDEXES), cache_kib=CACHE_KIB) as database:
        yield FactStore(database)
