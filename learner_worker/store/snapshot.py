"""Reads a shard's file as of one moment: nothing is written, created or locked."""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from learner_worker.contract.fields import AgentId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.domain.outcomes import Cutoff, Outcome, OutcomeKey
from learner_worker.errors import StateError, UnreadableFileError
from learner_worker.store.database import primary_code
from learner_worker.store.formats import FORMAT
from learner_worker.store.statements import (
    SqlRow,
    StrategyRow,
    SumsRow,
    outcome_of,
    pairs_parameter,
    statement,
)

T = TypeVar("T")
_WAIT_SECONDS = 10.0  # for a lock: a worker holds one only while it empties its log
_FORMAT_WITH_CUTOFF = 2  # the first format that has the table
_FORMAT_WITH_FORGOTTEN = 3  # as above
_FORMAT_WITH_SUMS = 4  # the first format that has the tables
_UNREACHABLE = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
}
"""Errors of access, which do not mean that the file is damaged."""


class RowCounts(NamedTuple):
    """The number of rows in a file.

    Attributes:
        outcomes: rows that count.
        rows: all rows of outcomes.
        unpublished: agents whose metrics record is still due.
        open_auctions: remembered auctions without a close.
    """

    outcomes: int
    rows: int
    agents: int
    unpublished: int
    keywords: int
    open_auctions: int
    closed_auctions: int


class Snapshot:
    """One read transaction: all reads are consistent, even while a worker writes."""

    def __init__(self, path: Path, connection: sqlite3.Connection, file_format: int) -> None:
        self.path = path
        self.format = file_format
        self._connection = connection

    def identity(self) -> dict[str, str]:
        """The file's identity: its cluster, prefix, shard count and shard."""
        return {str(name): str(value) for name, value in self._rows("load_identity")}

    def positions(self) -> dict[str, int]:
        """The next offset by topic."""
        return dict(_converted(self.path, list(self._rows("load_positions")), list[tuple[str, int]]))

    def position(self, topic: TopicName) -> int:
        """A topic's next offset; 0 if it was never read."""
        return self.positions().get(topic, 0)

    def cutoff(self) -> Cutoff | None:
        """The cutoff before which parts of outcomes have expired; None if there never was one."""
        if self.format < _FORMAT_WITH_CUTOFF:
            return None
        return next((_converted(self.path, row, Cutoff) for row in self._rows("load_cutoff")), None)

    def forgotten(self) -> dict[AgentId, Micros]:
        """The time until which each agent is forgotten."""
        if self.format < _FORMAT_WITH_FORGOTTEN:
            return {}
        return dict(_converted(self.path, list(self._rows("load_forgotten")), list[tuple[AgentId, Micros]]))

    def counts(self) -> RowCounts:
        """The number of rows in the file."""
        (row,) = self._rows("count_rows")
        return _converted(self.path, row, RowCounts)

    def outcomes(self, keys: Sequence[OutcomeKey]) -> dict[OutcomeKey, Outcome]:
        """The rows of the given (task, agent) pairs; missing ones are left out."""
        try:
            found = list(map(outcome_of, self._rows("load_outcomes", pairs_parameter(keys))))
        except msgspec.ValidationError as error:
            raise _damaged(self.path, error) from error
        return {(row.task_id, row.agent_id): row for row in found}

    def outcomes_by_task(self) -> Iterator[SqlRow]:
        """All rows, in the order of their key (task, agent)."""
        return self._rows("outcomes_by_task")

    def outcomes_by_agent(self) -> Iterator[SqlRow]:
        """All rows with a close, grouped by agent."""
        return self._rows("outcomes_by_agent")

    def agents(self) -> Iterator[SqlRow]:
        """Every agent's id and counts, in the order of the ids."""
        return self._rows("agents_in_order")

    def keywords(self) -> Iterator[SqlRow]:
        """Every agent's keywords with wins and failures, in the order of agent and keyword."""
        return self._rows("keywords_in_order")

    def strategies(self) -> list[StrategyRow]:
        """The strategies that keep sums in it, and how far the rows are counted."""
        if self.format < _FORMAT_WITH_SUMS:
            return []
        return [_converted(self.path, row, StrategyRow) for row in self._rows("load_strategies")]

    def sums(self) -> Iterator[SumsRow]:
        """Every agent's sums, in the order of agent and strategy."""
        if self.format >= _FORMAT_WITH_SUMS:
            for row in self._rows("sums_in_order"):
                yield _converted(self.path, row, SumsRow)

    def _rows(self, name: str, *parameters: str | int) -> Iterator[SqlRow]:
        yield from self._connection.execute(statement(name), parameters)


@contextlib.contextmanager
def snapshot_of(path: Path) -> Iterator[Snapshot]:
    """Opens a shard's file for one read transaction.

    Raises:
        UnreadableFileError: it is damaged, of a newer format, or was never written.
        StateError: it cannot be read, or changed so that what was read is inconsistent.
    """
    before = _stamp(path)
    at_rest = not path.with_name(path.name + "-wal").exists()
    try:
        with contextlib.closing(_connect(path, at_rest=at_rest)) as connection:
            connection.execute("BEGIN")
            yield Snapshot(path, connection, _format(path, connection))
    except sqlite3.Error as error:
        _require_rest(path, before, at_rest=at_rest)
        if primary_code(error) in _UNREACHABLE:
            raise StateError(f"cannot read {path}: {error}") from error
        raise _damaged(path, error) from error
    _require_rest(path, before, at_rest=at_rest)


def _converted(path: Path, value: object, kind: type[T]) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UnreadableFileError:
    return UnreadableFileError("damaged", f"{path} is damaged ({error})")


def _connect(path: Path, *, at_rest: bool) -> sqlite3.Connection:
    """Opens a read-only connection.

    A cleanly closed file has no log, and SQLite would create one even to read. Such a file is opened as
    immutable, and `_require_rest` checks afterwards that it did not change.
    """
    mode = "?mode=ro&immutable=1" if at_rest else "?mode=ro"
    return sqlite3.connect(
        path.resolve().as_uri() + mode, uri=True, isolation_level=None, timeout=_WAIT_SECONDS
    )


def _format(path: Path, connection: sqlite3.Connection) -> int:
    ((version,),) = connection.execute("PRAGMA user_version")
    if version > FORMAT:
        raise UnreadableFileError("newer", f"{path} has format {version}, this version reads {FORMAT}")
    if version == 0:
        raise UnreadableFileError("empty", f"{path} was never written")
    return int(version)


def _require_rest(path: Path, before: tuple[int, int], *, at_rest: bool) -> None:
    if at_rest and _stamp(path) != before:
        raise StateError(f"a worker began to write {path} while it was read: try again")


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise StateError(f"cannot read {path}: {error.strerror}") from error
    return found.st_size, found.st_mtime_ns
