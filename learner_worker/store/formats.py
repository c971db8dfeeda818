"""The numbered formats of a shard's file, and the upgrade of a file of an older format.

PRAGMA user_version is a file's format. One change turns format N - 1 into format N. It consists of:

1. a script, `migrations/N.sql`, run when the file is opened, in one transaction that also writes the number;
2. if rows have to be converted, too, a conversion, which runs in pages while the file is in use.
   A page is one transaction that also writes its progress to the table `conversions`.

Wherever the process ends, the next one continues. The table `conversions` is created with the first
conversion that a file needs and dropped with its last; a new file, created by `schema.sql`, never has it.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final

import aiosqlite

from learner_worker.store.statements import SqlRow

Writes = Iterable[tuple[str, Iterable[SqlRow]]]
"""Pairs of a statement and the rows that it is run with."""

_ANY_CONVERSIONS = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'conversions'"
_MAKE_CONVERSIONS = (
    "CREATE TABLE IF NOT EXISTS conversions (format INTEGER PRIMARY KEY, converted_to TEXT NOT NULL)"
)
_LOAD_CONVERSIONS = "SELECT format, converted_to FROM conversions ORDER BY format"
_SAVE_CONVERSION = "INSERT OR REPLACE INTO conversions (format, converted_to) VALUES (?, ?)"
_END_CONVERSION = "DELETE FROM conversions WHERE format = ?"
_DROP_CONVERSIONS = "DROP TABLE conversions"


@dataclass(frozen=True, slots=True)
class Conversion:
    """The conversion of a table's rows, in the order of their keys.

    Until it is complete, readers must find every row: they distinguish rows of both kinds, or all rows of the
    former kind are kept, and current, until then.

    Attributes:
        page: a query for the rows after a key; its parameters are the key's columns and the most rows; a row
            begins with the columns of its key.
        before_first: a key that is smaller than any row's.
        convert: makes the statements to run for some rows.
        end: statements to run with the last page.
    """

    page: str
    before_first: tuple[str | int, ...]
    convert: Callable[[Sequence[SqlRow]], Writes]
    end: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class FormatChange:
    """The change from one format to the next."""

    script: str
    conversion: Conversion | None = None


def _script(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


_OUTCOMES_AFTER = (
    "SELECT task_id, agent_id FROM outcomes WHERE (task_id, agent_id) > (?, ?)"
    " ORDER BY task_id, agent_id LIMIT ?"
)
_COPY_OUTCOMES = (
    "INSERT OR IGNORE INTO new_outcomes SELECT * FROM outcomes"
    " WHERE (task_id, agent_id) BETWEEN (?, ?) AND (?, ?) ORDER BY task_id, agent_id"
)


def _copy_outcomes(keys: Sequence[SqlRow]) -> Writes:
    """Copies the rows from the first key to the last; those that have changed before are there already."""
    if keys:
        yield _COPY_OUTCOMES, [(*keys[0], *keys[-1])]


CHANGES: Final[Mapping[int, FormatChange]] = {
    2: FormatChange(_script("migrations/0002.sql")),
    3: FormatChange(_script("migrations/0003.sql")),
    4: FormatChange(_script("migrations/0004.sql")),
    5: FormatChange(
        _script("migrations/0005.sql"),
        Conversion(
            _OUTCOMES_AFTER,
            ("", ""),
            _copy_outcomes,
            end=("DROP TABLE outcomes", "ALTER TABLE new_outcomes RENAME TO outcomes"),
        ),
    ),
}
"""The changes by the format that each one makes. Format 1 is the schema of the first release."""
FORMAT: Final = max(CHANGES)


async def format_of(connection: aiosqlite.Connection) -> int:
    """A file's format; 0 for a file without tables."""
    ((version,),) = await connection.execute_fetchall("PRAGMA user_version")
    return int(version)


async def bring_up_to_date(
    connection: aiosqlite.Connection, changes: Mapping[int, FormatChange] = CHANGES
) -> None:
    """Creates the tables of a new file, or runs the scripts that an older one needs."""
    found = await format_of(connection)
    if found == 0:
        await _run_script(connection, _script("schema.sql"), FORMAT)
        found = FORMAT
    for number in range(found + 1, max(changes) + 1):
        change = changes[number]
        await _run_script(connection, change.script + _begin(number, change.conversion), number)


def _begin(number: int, conversion: Conversion | None) -> str:
    """The SQL that starts a conversion, at the end of its change's script."""
    if conversion is None:
        return ""
    before_first = json.dumps(conversion.before_first).replace("'", "''")
    return f"\n{_MAKE_CONVERSIONS};\nINSERT INTO conversions VALUES ({number}, '{before_first}');"


async def _run_script(connection: aiosqlite.Connection, script: str, number: int) -> None:
    await connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")


def _conversions(changes: Mapping[int, FormatChange]) -> dict[int, Conversion]:
    return {number: change.conversion for number, change in changes.items() if change.conversion is not None}


async def are_rows_to_convert(connection: aiosqlite.Connection) -> bool:
    """Whether a conversion is incomplete."""
    return bool(list(await connection.execute_fetchall(_ANY_CONVERSIONS)))


async def convert_page(
    connection: aiosqlite.Connection, rows: int, changes: Mapping[int, FormatChange] = CHANGES
) -> bool:
    """Converts some rows, within the caller's transaction; returns whether there are more.

    Args:
        rows: the most rows to convert.
    """
    (number, converted_to), *others = await connection.execute_fetchall(_LOAD_CONVERSIONS)
    conversion = _conversions(changes)[number]
    page = await connection.execute_fetchall(conversion.page, (*json.loads(converted_to), rows))
    found = [tuple(row) for row in page]
    for sql, written in conversion.convert(found):
        await connection.executemany(sql, written)
    if len(found) == rows:
        key = found[-1][: len(conversion.before_first)]
        await connection.execute(_SAVE_CONVERSION, (number, json.dumps(key)))
        return True
    for sql in conversion.end:
        await connection.execute(sql)
    await connection.execute(_END_CONVERSION, (number,))
    if not others:
        await connection.execute(_DROP_CONVERSIONS)
    return bool(others)
