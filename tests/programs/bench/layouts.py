"""What a row costs in SQLite alone, by layout: `python -m tests.programs.bench.layouts`.

Rows with random task ids are written to one file, one checkpoint a transaction, as they come or in the order
of their keys. The first layout is the store's. A layout's figure is the processor time of a row in the last
fifth, when the table is large.
"""

import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec

from learner_worker.domain.outcomes import Outcome
from learner_worker.store.statements import OUTCOME_COLUMNS, ROWS_AT_ONCE, outcome_row
from tests.programs.bench.load import past_fact

_BIDDERS_APART = 7  # of ten in a task: successive rows of a shard are nearly always of different tasks
_LAST = 0.8
_PRAGMAS = ("journal_mode = WAL", "synchronous = NORMAL", "cache_size = -8000", "secure_delete = ON")
_COLUMNS = ", ".join(OUTCOME_COLUMNS)
_KEY = "task_id, agent_id"
_pack = msgspec.msgpack.Encoder().encode
Row = tuple[Any, ...]


class Layout(NamedTuple):
    """A table, and how an outcome becomes its row."""

    columns: str
    table: str
    convert: Callable[[Row], Row]


def _columns(row: Row) -> Row:
    return row


def _blob(row: Row) -> Row:
    return (*row[:2], _pack(row[2:]))


LAYOUTS = {
    "columns, rowid": Layout(_COLUMNS, f"({_COLUMNS}, UNIQUE ({_KEY}))", _columns),
    "columns, without rowid": Layout(_COLUMNS, f"({_COLUMNS}, PRIMARY KEY ({_KEY})) WITHOUT ROWID", _columns),
    "one BLOB, without rowid": Layout(
        f"{_KEY}, parts", f"({_KEY}, parts, PRIMARY KEY ({_KEY})) WITHOUT ROWID", _blob
    ),
    "one BLOB, rowid": Layout(f"{_KEY}, parts", f"({_KEY}, parts, UNIQUE ({_KEY}))", _blob),
}


@click.command()
@click.option("--rows", default=1_000_000, show_default=True, type=click.IntRange(10_000), help="In all.")
@click.option("--at-once", default=2_000, show_default=True, type=click.IntRange(250), help="A checkpoint's.")
@click.option("--only", multiple=True, type=click.Choice(list(LAYOUTS)), help="Just these layouts.")
def main(*, rows: int, at_once: int, only: Sequence[str]) -> None:
    """Print what a row costs in each layout, in µs."""
    for name, layout in LAYOUTS.items():
        if not only or name in only:
            for ordered in (False, True):
                with tempfile.TemporaryDirectory(prefix="learner-layouts-") as folder:
                    path = Path(folder, "rows.sqlite3")
                    making, writing = cost(path, layout, _batches(rows, at_once), ordered=ordered)
                    size = path.stat().st_size / rows
                order = "sorted" if ordered else "as they come"
                figures = f"made {making:.2f} µs, written {writing:.2f} µs, {size:.0f} B a row"
                click.echo(f"{name}, {order}: {figures}")


def _batches(rows: int, at_once: int) -> Iterator[list[Row]]:
    for start in range(0, rows, at_once):
        facts = (past_fact(number * _BIDDERS_APART) for number in range(start, start + at_once))
        yield [
            tuple(outcome_row(Outcome(fact.task_id, fact.agent_id, fact.close, fact.bid, fact.result)))
            for fact in facts
        ]


def cost(path: Path, layout: Layout, batches: Iterator[list[Row]], *, ordered: bool) -> tuple[float, float]:
    """Writes the batches; what a row of the last fifth took to be made and to be written, in µs."""
    samples: list[tuple[int, float, float]] = []
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        connection.execute(f"CREATE TABLE outcomes {layout.table}")
        for batch in batches:
            began = time.thread_time()
            rows = [layout.convert(row) for row in (sorted(batch, key=_key) if ordered else batch)]
            made = time.thread_time()
            _write(connection, layout, rows)
            samples.append((len(rows), made - began, time.thread_time() - made))
    last = samples[round(_LAST * len(samples)) :]
    count = sum(rows for rows, _, _ in last)
    making, writing = (sum(batch[place] for batch in last) for place in (1, 2))
    return making / count * 1e6, writing / count * 1e6


def _key(row: Row) -> Row:
    return row[:2]


def _write(connection: sqlite3.Connection, layout: Layout, rows: list[Row]) -> None:
    last = layout.columns.rpartition(", ")[2]
    connection.execute("BEGIN IMMEDIATE")
    for start in range(0, len(rows), ROWS_AT_ONCE):
        some = rows[start : start + ROWS_AT_ONCE]
        placeholders = f"({', '.join('?' * len(some[0]))})"
        values = ", ".join([placeholders] * len(some))
        conflict = f"ON CONFLICT ({_KEY}) DO UPDATE SET {last} = excluded.{last}"
        statement = " ".join(("INSERT INTO outcomes", f"({layout.columns}) VALUES", values, conflict))
        connection.execute(statement, list(chain.from_iterable(some)))
    connection.execute("COMMIT")


if __name__ == "__main__":
    main()
