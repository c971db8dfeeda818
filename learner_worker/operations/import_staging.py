"""Stages an import in a temporary database: rows are added in any order and read task by task.

SQLite sorts and groups them on disk, so memory does not grow with the file. The database is temporary
and is deleted with the process; SQLITE_TMPDIR or TMPDIR sets where it is stored.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, Self

from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.operations import import_statements as sql
from learner_worker.operations.import_report import EXAMPLES, ReportedRows, RowsByReason, shown
from learner_worker.operations.progress import StepProgress
from learner_worker.operations.swarm_file import no_room, swarm_file
from learner_worker.operations.swarm_rows import REASONS, RawRow, Refusal, SwarmRow, read_row


class StandingRow(NamedTuple):
    """A row that becomes a bid, with how its task ended."""

    task_id: TaskId
    agent_id: AgentId
    bid_sats: int
    description: str
    placed_at: Micros
    closed_at: Micros
    winner: AgentId | None
    winning_bid_sats: int | None
    succeeded: int | None


class KnownRow(NamedTuple):
    """A row that becomes a bid, with the encoded facts about it in the changelog."""

    row: StandingRow
    facts: list[bytes]


class EventTotals(NamedTuple):
    """The number of rows, and of the events that they become."""

    rows: int
    bids: int
    closes: int
    results: int


class Staging:
    """The rows of a file, checked and grouped.

    Rows are added first; after `group` they can be read, and the changelog's facts are added.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._rows = 0
        self._refused = RowsByReason(REASONS)

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[Self]:
        """Opens an empty staging.

        Raises:
            StateError: there is no space for it.
        """
        connection = sqlite3.connect("", isolation_level=None)
        try:
            with _failures_as_sentences():
                connection.executescript(sql.PRAGMAS + sql.TABLES)
            yield cls(connection)
        finally:
            connection.close()

    def add(self, page: Sequence[RawRow]) -> None:
        """Checks rows and adds the valid ones."""
        self._rows += len(page)
        read = [read_row(raw) for raw in page]
        refusals = [row for row in read if isinstance(row, Refusal)]
        for refusal in refusals:
            self._refused.add(
                refusal.reason, f"id {shown(refusal.id)}: {refusal.reason} is {shown(refusal.value)}"
            )
        doubtful = [(row.doubtful_task,) for row in refusals if row.doubtful_task is not None]
        with self._transaction() as connection:
            connection.executemany(sql.INSERT_ROW, [row for row in read if isinstance(row, SwarmRow)])
            connection.executemany(sql.INSERT_DOUBTFUL, doubtful)

    def group(self) -> None:
        """Determines, after all rows were added, which of them count and how each task ended."""
        steps = (
            sql.INDEX_ROWS,
            sql.MARK_REPLACED,
            sql.FILL_TASKS,
            sql.MARK_DOUBTFUL,
            sql.MARK_TWO_WINNERS,
        )
        with self._transaction() as connection:
            for statement in steps:
                connection.execute(statement)
        self._put("replaced", self._number(sql.REPLACED_COUNT), sql.REPLACED_EXAMPLES, ())
        for problem in ("winner_refused", "two_winners"):
            count = self._number(sql.LEFT_OUT_COUNT, problem)
            self._put(problem, count, sql.LEFT_OUT_EXAMPLES, (problem,))

    def totals(self) -> EventTotals:
        """The counts."""
        with _failures_as_sentences():
            closes, results = self._connection.execute(sql.CLOSE_COUNTS).fetchone()
        return EventTotals(self._rows, self._number(sql.BID_COUNT), closes, results)

    def refused(self) -> list[ReportedRows]:
        """The rows that become no events."""
        return self._refused.listed()

    def tasks(self) -> Iterator[Iterator[StandingRow]]:
        """The rows that become events, grouped by task; a task's rows must be read before the next task's."""
        with _failures_as_sentences():
            rows = map(StandingRow._make, self._connection.execute(sql.STANDING_ROWS))
            for _, of_task in groupby(rows, key=itemgetter(0)):
                yield of_task

    def add_facts(self, facts: Iterable[tuple[TaskId, AgentId, bytes]]) -> None:
        """Adds the facts of the changelog that are about the file's rows."""
        with self._transaction() as connection:
            connection.executemany(sql.INSERT_FACT, facts)

    def add_forgotten(self, agent_id: AgentId, until: Micros) -> None:
        """Notes that the learner has forgotten an agent until a time."""
        with _failures_as_sentences():
            self._connection.execute(sql.INSERT_FORGOTTEN, (agent_id, until))

    def forgotten(self) -> Mapping[AgentId, Micros]:
        """The agents that the learner has forgotten, each with the time until which."""
        with _failures_as_sentences():
            return dict(self._connection.execute(sql.FORGOTTEN))

    def known(self) -> Iterator[KnownRow]:
        """The rows that become events and about which the changelog holds facts."""
        with _failures_as_sentences():
            found = self._connection.execute(sql.KNOWN_ROWS)
            width = len(StandingRow._fields)
            for row, with_facts in groupby(found, key=lambda columns: columns[:width]):
                yield KnownRow(StandingRow._make(row), [columns[width] for columns in with_facts])

    def _put(self, reason: str, count: int, examples: str, arguments: tuple[str, ...]) -> None:
        with _failures_as_sentences():
            found = self._connection.execute(examples, (*arguments, EXAMPLES)).fetchall()
        self._refused.put(reason, count, [f"id {shown(row_id)}: {what}" for row_id, what in found])

    def _number(self, statement: str, *arguments: Any) -> int:
        with _failures_as_sentences():
            return int(self._connection.execute(statement, arguments).fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _failures_as_sentences():
            self._connection.execute("BEGIN")
            yield self._connection
            self._connection.execute("COMMIT")


@contextmanager
def _failures_as_sentences() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise no_room(error) from error


@contextmanager
def staged(path: Path, progress: StepProgress) -> Iterator[tuple[Staging, list[str]]]:
    """Reads and checks a swarm's file; yields its rows, and the file's other tables.

    Raises:
        ConfigurationError: the file is missing, locked, damaged or not a swarm's.
        StateError: there is no room for the temporary database.
    """
    with Staging.open() as staging:
        with swarm_file(path) as file:
            progress.begin("reading the file", file.row_count)
            for page in file.rows():
                staging.add(page)
                progress.advance(len(page))
        staging.group()
        yield staging, file.other_tables
