"""A swarm that keeps its outcomes in SQLite: its file, with rows of every bad kind, and its own rules.

The rules are computed from the rows alone, by agent, without events, closes or times: what a swarm that reads
`task_outcomes` itself would know of its agents. Nothing of the program that is judged is imported.
"""

import random
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.support.model import MAX_SATS, Metrics, keywords

SCHEMA = """
CREATE TABLE task_outcomes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id TEXT,
    agent_id TEXT,
    description TEXT,
    bid_sats INTEGER,
    won_auction INTEGER,
    task_succeeded INTEGER,
    created_at TEXT DEFAULT CURRENT_TIMESTAMP
);
"""
INSERT = """
INSERT INTO task_outcomes (task_id, agent_id, description, bid_sats, won_auction, task_succeeded, created_at)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""
START = datetime(2025, 3, 1, tzinfo=UTC)
WORDS = tuple(
    re.findall(
        r"\w+",
        """
        parse invoices contract German scrape product pages summarize legal documents write unit tests parser
        classify support tickets label images Überprüfe the please need PYTHON urgent translate review report
        """,
    )
)
BAD_VALUES: dict[str, tuple[int, tuple[Any, ...]]] = {
    "task_id": (0, (None, "", "x" * 257, "a\nb", b"t-1")),
    "agent_id": (1, (None, "", "x" * 257, "\x00", b"a")),
    "description": (2, ("x" * 16_385, b"text", "ö" * 70_000)),
    "bid_sats": (3, (None, -1, MAX_SATS + 1, 1.5, "many", b"1")),
    "won_auction": (4, (None, 2, "yes", 0.5)),
    "task_succeeded": (5, (2, "yes", -1)),
    "created_at": (6, (None, "", "yesterday", "1969-12-31 23:59:59", 1_740_787_200)),
}
"""The place in a row, and what must not stand there."""
MESS = (*BAD_VALUES, "replaced", "two_winners", "winner_refused")
MESSY_TASKS, SPOILT_OF_THEM = 0.25, 0.4
Row = tuple[Any, ...]
"""task_id, agent_id, description, bid_sats, won_auction, task_succeeded, created_at."""


@dataclass
class Swarm:
    """What was written.

    Attributes:
        rows: how many rows.
        refused: how many of them are to be refused, by reason.
        spoilt: the tasks that have a refused row.
    """

    rows: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    spoilt: set[str] = field(default_factory=set)


def write_swarm(path: Path, rows: int, *, seed: int, agents: int) -> Swarm:
    """A new file with about so many rows. A quarter of the agents works in tasks that often are bad."""
    swarm = Swarm()
    rng = random.Random(seed)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCHEMA)
        connection.executemany(INSERT, _rows(rng, swarm, rows, agents))
        connection.commit()
    return swarm


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Rows as given, into a new file or behind those of an old one."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCHEMA.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS"))
        connection.executemany(INSERT, rows)
        connection.commit()


def row(
    task_id: Any = "t-1",
    agent_id: Any = "echo",
    *,
    sats: Any = 100,
    won: Any = 0,
    succeeded: Any = None,
    description: Any = "parse invoices",
    created_at: Any = "2025-03-01 12:00:00",
) -> Row:
    """One row, good unless something else is said."""
    return (task_id, agent_id, description, sats, won, succeeded, created_at)


def _rows(rng: random.Random, swarm: Swarm, count: int, agents: int) -> Iterator[Row]:
    task, messy = 0, agents // 4
    while swarm.rows < count:
        is_messy = rng.random() < MESSY_TASKS
        agents_here = range(messy) if is_messy else range(messy, agents)
        rows = _task(rng, f"task-{task:07}", START + timedelta(seconds=40 * task), agents_here)
        if is_messy and rng.random() < SPOILT_OF_THEM:
            rows = _spoilt(rng, swarm, rows, rng.choice(MESS))
        swarm.rows += len(rows)
        task += 1
        yield from rows


def _task(rng: random.Random, task_id: str, opened: datetime, agents: range) -> list[Row]:
    """A task's rows: who bid, who won if anybody did, how it ended if that is known."""
    description = " ".join(rng.choices(WORDS, k=rng.randint(0, 9)))
    crowd = rng.sample(agents, min(len(agents), rng.randint(1, 19)))
    winner = rng.choice([*crowd, None]) if len(crowd) > 1 else rng.choice([crowd[0], None])
    rows = []
    for number in crowd:
        created = opened + timedelta(seconds=rng.randint(0, 30))
        skill = 0.2 + 0.7 * (number % 7) / 6
        result = rng.choice([int(rng.random() < skill)] * 6 + [None]) if number == winner else None
        rows.append(
            (
                task_id,
                f"agent-{number}",
                description if rng.random() < 0.95 else rng.choice(["", None, description + " twice"]),
                rng.choice([rng.randint(0, 5_000)] * 50 + [0, MAX_SATS]),
                int(number == winner),
                result,
                _created(rng, created),
            )
        )
    return rows


def _created(rng: random.Random, moment: datetime) -> str:
    """A time as SQLite's functions and Python's adapter write it, all of them UTC."""
    text = moment.strftime("%Y-%m-%d %H:%M:%S")
    return rng.choice(
        [text] * 8 + [f"{text}.{rng.randint(0, 999):03}", f"{text}+00:00", text.replace(" ", "T")]
    )


def _spoilt(rng: random.Random, swarm: Swarm, rows: list[Row], how: str) -> list[Row]:
    """The task's rows with others that make it bad, and what is to be said of them."""
    task_id, created_at = rows[0][0], rows[0][-1]
    if how != "task_id":  # whose task it is, nobody can tell
        swarm.spoilt.add(task_id)
    if how in BAD_VALUES:
        index, values = BAD_VALUES[how]
        swarm.refused[how] += 1
        if how in {"won_auction", "task_succeeded"}:
            swarm.refused["winner_refused"] += len(rows)
        other = row(task_id, "spoiler", won=int(how == "task_succeeded"), created_at=created_at)
        return [*rows, _with(other, index, rng.choice(values))]
    if how == "replaced":
        swarm.refused["replaced"] += 1
        return [*rows, _with(rng.choice(rows), 3, 77)]
    if how == "two_winners":
        winners = [row(task_id, name, won=1, created_at=created_at) for name in ("spoiler", "rival")]
        swarm.refused["two_winners"] += len(rows) + 2
        return [*rows, *winners]
    swarm.refused.update({"bid_sats": 1, "winner_refused": len(rows)})
    return [*rows, row(task_id, "spoiler", won=1, sats=-5, created_at=created_at)]


def _with(found: Row, index: int, value: Any) -> Row:
    return (*found[:index], value, *found[index + 1 :])


# --- the swarm's own rules ------------------------------------------------------------------------


@dataclass
class _Counts:
    bids: int = 0
    won: int = 0
    completed: int = 0
    failed: int = 0
    won_sats: int = 0
    keyword_wins: Counter[str] = field(default_factory=Counter)
    keyword_failures: Counter[str] = field(default_factory=Counter)


def metrics_by_the_rows(path: Path, spoilt: set[str]) -> dict[str, Metrics]:
    """Every agent's metrics by the file's rows, for agents without a row in these tasks."""
    counts: defaultdict[str, _Counts] = defaultdict(_Counts)
    exempt: set[str] = set()
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        for task_id, agent_id, description, sats, won, succeeded in connection.execute(
            "SELECT task_id, agent_id, description, bid_sats, won_auction, task_succeeded FROM task_outcomes"
        ):
            if task_id in spoilt:
                exempt.add(agent_id)
            elif isinstance(task_id, str) and 0 < len(task_id) <= 256 and task_id.isprintable():
                _count(counts[agent_id], description or "", sats, won, succeeded)
    return {agent: _metrics(found) for agent, found in counts.items() if agent not in exempt}


def _count(counts: _Counts, description: str, sats: int, won: int, succeeded: int | None) -> None:
    counts.bids += 1
    if not won:
        return
    counts.won += 1
    counts.won_sats += sats
    if succeeded is None:
        return
    counts.completed += succeeded
    counts.failed += 1 - succeeded
    (counts.keyword_wins if succeeded else counts.keyword_failures).update(keywords(description))


def _metrics(counts: _Counts) -> Metrics:
    results = counts.completed + counts.failed
    return Metrics(
        total_bids=counts.bids,
        auctions_won=counts.won,
        tasks_completed=counts.completed,
        tasks_failed=counts.failed,
        win_rate=counts.won / counts.bids,
        success_rate=counts.completed / results if results else 0.0,
        avg_winning_bid_sats=counts.won_sats / counts.won if counts.won else 0.0,
        keyword_wins=dict(counts.keyword_wins),
        keyword_failures=dict(counts.keyword_failures),
    )
