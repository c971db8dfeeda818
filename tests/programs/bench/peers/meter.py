"""Shared by the peers: what they are to do, when they have done it, and the outcomes' table."""

import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterable
from typing import Any

JOB: dict[str, Any] = json.loads(sys.argv[1]) if len(sys.argv) > 1 else json.loads(os.environ["PEER_JOB"])
"""servers, group, folder; bids, closes, results (topics); events: how many there are in all."""

_SCHEMA = """
CREATE TABLE bids (task_id, agent_id, bid_sats, description, PRIMARY KEY (task_id, agent_id)) WITHOUT ROWID;
CREATE TABLE outcomes (
    task_id, agent_id, won, bid_sats, description, succeeded, PRIMARY KEY (task_id, agent_id)
) WITHOUT ROWID;
CREATE TABLE closes (task_id PRIMARY KEY, winner) WITHOUT ROWID;
CREATE TABLE results (task_id PRIMARY KEY, succeeded) WITHOUT ROWID;
"""
_SETTLE = """
INSERT OR REPLACE INTO outcomes
SELECT task_id, agent_id, agent_id IS winner, bid_sats, description, iif(agent_id IS winner, succeeded, NULL)
FROM bids JOIN closes USING (task_id) LEFT JOIN results USING (task_id)
WHERE task_id = ?
"""
_OF_TASKS = """
SELECT task_id, agent_id, won, bid_sats, description, succeeded
FROM json_each(?) AS task JOIN outcomes ON task_id = task.value
"""
_OF_PAIRS = """
SELECT task_id, agent_id, won, bid_sats, description, succeeded
FROM json_each(?) AS pair JOIN outcomes ON task_id = pair.value ->> 0 AND agent_id = pair.value ->> 1
"""
_SETTLE_ONE = f"{_SETTLE} AND agent_id = ?"


class Meter:
    """Counts events; at the last one it says how fast they were done, and ends the process.

    The first twentieth does not count, nor does the last where there is one stage; with two, the end is when
    the second stage has learned every outcome that the first one sent.
    """

    def __init__(self, events: int, *, two_stages: bool = False) -> None:
        self._events = events
        self._two_stages = two_stages
        self._seen = self._sent = self._learned = 0
        self._low: tuple[int, float] | None = None
        self._high: tuple[int, float] | None = None

    def add(self, events: int = 1, *, sent: int = 0) -> None:
        """More events are done; the first stage has sent their outcomes."""
        self._seen += events
        self._sent += sent
        self._look()

    def learned(self, outcomes: int = 1) -> None:
        """The second stage has learned more outcomes."""
        self._learned += outcomes
        self._look()

    def _look(self) -> None:
        now = time.perf_counter()
        if self._low is None and self._seen >= 0.05 * self._events:
            self._low = (self._seen, now)
        if self._high is None and not self._two_stages and self._seen >= 0.95 * self._events:
            self._high = (self._seen, now)
        if self._seen >= self._events and self._learned >= self._sent:
            self._high = self._high or (self._seen, now)
            self._end(self._low or self._high, self._high)

    def _end(self, low: tuple[int, float], high: tuple[int, float]) -> None:
        """Ends the process at once: frameworks differ in how they stop, and nobody measures that."""
        rate = (high[0] - low[0]) / max(1e-9, high[1] - low[1])
        os.write(1, json.dumps({"rate": rate, "events": self._seen}).encode() + b"\n")
        os._exit(0)


class Outcomes:
    """Bids, closes and results in SQLite, joined into outcomes as they come, in whatever order."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.executescript(_SCHEMA)

    def begin(self) -> None:
        """Opens a transaction."""
        self._connection.execute("BEGIN")

    def commit(self) -> None:
        """Makes it durable."""
        self._connection.execute("COMMIT")

    def of_tasks(self, tasks: Iterable[str]) -> list[dict[str, Any]]:
        """The outcomes of some tasks that have closed."""
        return self._outcomes(_OF_TASKS, list(tasks))

    def of_bidders(self, pairs: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
        """The outcomes of some pairs of task and agent, where the task has closed."""
        return self._outcomes(_OF_PAIRS, list(pairs))

    def _outcomes(self, query: str, keys: list[Any]) -> list[dict[str, Any]]:
        found = self._connection.execute(query, (json.dumps(keys),))
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found]

    def bids(self, bids: Iterable[tuple[str, str, int, str]]) -> None:
        """Task, agent, sats, description."""
        rows = list(bids)
        self._connection.executemany("INSERT OR REPLACE INTO bids VALUES (?, ?, ?, ?)", rows)
        self._connection.executemany(_SETTLE_ONE, [row[:2] for row in rows])

    def closes(self, closes: Iterable[tuple[str, str | None]]) -> None:
        """Task, winner."""
        rows = list(closes)
        self._connection.executemany("INSERT OR REPLACE INTO closes VALUES (?, ?)", rows)
        self._connection.executemany(_SETTLE, [row[:1] for row in rows])

    def results(self, results: Iterable[tuple[str, str, bool]]) -> None:
        """Task, agent, whether it succeeded."""
        rows = list(results)
        self._connection.executemany(
            "INSERT OR REPLACE INTO results VALUES (?, ?)", [(row[0], row[2]) for row in rows]
        )
        self._connection.executemany(_SETTLE_ONE, [row[:2] for row in rows])
