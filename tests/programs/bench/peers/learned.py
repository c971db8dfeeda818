"""Stage two of the whole job in SQLite: outcomes, and agents' metrics and keywords by the difference."""

import re
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

_SCHEMA = """
CREATE TABLE learned (
    task_id, agent_id, won, bid_sats, description, succeeded, PRIMARY KEY (task_id, agent_id)
) WITHOUT ROWID;
CREATE TABLE agents (agent_id PRIMARY KEY, bids, won, completed, failed, won_sats) WITHOUT ROWID;
CREATE TABLE keywords (agent_id, keyword, wins, failures, PRIMARY KEY (agent_id, keyword)) WITHOUT ROWID;
"""
_KNOWN = """
SELECT l.* FROM json_each(?) AS pair
JOIN learned AS l ON l.task_id = pair.value ->> 0 AND l.agent_id = pair.value ->> 1
"""
_WORD = re.compile(r"[a-z]{3,}")
METRICS = ("bids", "won", "completed", "failed", "won_sats")


def counted(outcome: dict[str, Any] | None) -> tuple[int, ...]:
    """What an outcome counts in its agent's metrics."""
    if outcome is None:
        return (0,) * len(METRICS)
    won, succeeded = bool(outcome["won"]), outcome["succeeded"]
    sats = outcome["bid_sats"] if won else 0
    return (1, won, won and succeeded is True, won and succeeded is False, sats)


def words(outcome: dict[str, Any] | None) -> Iterator[tuple[str, int, int]]:
    """The keywords that an outcome counts, each with whether it was a success or a failure."""
    if outcome is not None and outcome["won"] and outcome["succeeded"] is not None:
        succeeded = bool(outcome["succeeded"])
        for word in set(_WORD.findall(outcome["description"].lower())):
            yield word, succeeded, not succeeded


class Learned:
    """Learns batches of outcomes; a repeated one changes nothing.

    Agents are kept in memory once they were changed, as many as there are.
    """

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.executescript(_SCHEMA)
        self._connection.row_factory = sqlite3.Row
        self._metrics: dict[str, list[int]] = {}
        self._tallies: dict[tuple[str, str], list[int]] = {}

    def learn(self, outcomes: Iterable[dict[str, Any]], keys: str) -> dict[str, dict[str, int]]:
        """Takes some outcomes in one transaction.

        Args:
            keys: their keys as a JSON array of pairs of task and agent.

        Returns:
            The metrics of the agents that changed.
        """
        known: dict[tuple[str, str], dict[str, Any]] = {
            (row["task_id"], row["agent_id"]): _outcome(row)
            for row in self._connection.execute(_KNOWN, (keys,))
        }
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        agents: set[str] = set()
        tallies: set[tuple[str, str]] = set()
        for outcome in outcomes:
            key = outcome["task_id"], outcome["agent_id"]
            before = rows.get(key) or known.get(key)
            if before != outcome:
                rows[key] = outcome
                agents.add(key[1])
                self._count(key[1], before, outcome)
                tallies |= self._tally(key[1], before, outcome)
        self._write(rows, agents, tallies)
        return {agent: dict(zip(METRICS, self._metrics[agent], strict=True)) for agent in agents}

    def _count(self, agent: str, before: dict[str, Any] | None, after: dict[str, Any]) -> None:
        metrics = self._metrics.setdefault(agent, [0] * len(METRICS))
        for place, (old, new) in enumerate(zip(counted(before), counted(after), strict=True)):
            metrics[place] += new - old

    def _tally(
        self, agent: str, before: dict[str, Any] | None, after: dict[str, Any]
    ) -> set[tuple[str, str]]:
        changed = set()
        for outcome, sign in ((before, -1), (after, 1)):
            for word, wins, failures in words(outcome):
                tally = self._tallies.setdefault((agent, word), [0, 0])
                tally[0] += sign * wins
                tally[1] += sign * failures
                changed.add((agent, word))
        return changed

    def _write(
        self, rows: dict[tuple[str, str], dict[str, Any]], agents: set[str], tallies: set[tuple[str, str]]
    ) -> None:
        execute = self._connection.executemany
        self._connection.execute("BEGIN")
        execute(
            "INSERT OR REPLACE INTO learned VALUES "
            "(:task_id, :agent_id, :won, :bid_sats, :description, :succeeded)",
            rows.values(),
        )
        execute(
            "INSERT OR REPLACE INTO agents VALUES (?, ?, ?, ?, ?, ?)",
            [(agent, *self._metrics[agent]) for agent in agents],
        )
        execute(
            "INSERT OR REPLACE INTO keywords VALUES (?, ?, ?, ?)",
            [(*key, *self._tallies[key]) for key in tallies],
        )
        self._connection.execute("COMMIT")


def _outcome(row: sqlite3.Row) -> dict[str, Any]:
    """A row as the outcome that it was written from."""
    outcome = dict(row)
    outcome["won"] = bool(outcome["won"])
    outcome["succeeded"] = None if outcome["succeeded"] is None else bool(outcome["succeeded"])
    return outcome
