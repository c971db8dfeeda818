"""The numbered formats of a shard's file, and how a file of an older format becomes one of today's.

PRAGMA user_version is a file's format. Format N is made from format N - 1 by one change, which is:

1. a script, `migrations/N.sql`, run when the file is opened, in one transaction that also writes the number;
2. where rows have to be converted, too, a conversion: it takes the rows in pages while the file is in use.
   A page is one transaction that also writes how far it has come, in the table `conversions`.

Wherever the process ends, the next one goes on from there. The table `conversions` is made with the first
conversion that a file needs and goes with its last; a new file, made by `schema.sql`, never has it.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final

import aiosqlite

from learner_worker.store.statements import SqlRow

Writes = Iterable[tuple[str, Iterable[SqlRow]]]
"""SQL, and the rows that it is run with."""

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
    """How the rows of a table are converted, in the order of their keys.

    Until it is over a file holds rows of both kinds, and whoever reads them has to tell them apart.

    Attributes:
        page: SQL that reads the rows behind a key, with the key's columns and the most rows as parameters;
            a row begins with the columns of its key.
        before_first: a key that is smaller than any row's.
        convert: what is to be written for some rows.
    """

    page: str
    before_first: tuple[str | int, ...]
    convert: Callable[[Sequence[SqlRow]], Writes]


@dataclass(frozen=True, slots=True)
class FormatChange:
    """What makes a format of the one before."""

    script: str
    conversion: Conversion | None = None


def _script(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


CHANGES: Final[Mapping[int, FormatChange]] = {
    2: FormatChange(_script("migrations/0002.sql")),
    3: FormatChange(_script("migrations/0003.sql")),
}
"""By the format that each makes. The first format was the schema of the first release."""
FORMAT: Final = max(CHANGES)


async def format_of(connection: aiosqlite.Connection) -> int:
    """A file's format; 0 for a file without tables."""
    ((version,),) = await connection.execute_fetchall("PRAGMA user_version")
    return int(version)


async def bring_up_to_date(
    connection: aiosqlite.Connection, changes: Mapping[int, FormatChange] = CHANGES
) -> None:
    """Makes the tables of a new file, or runs the scripts that an older one lacks."""
    found = await format_of(connection)
    if found == 0:
        await _run_script(connection, _script("schema.sql"), FORMAT)
        found = FORMAT
    for number in range(found + 1, max(changes) + 1):
        change = changes[number]
        await _run_script(connection, change.script + _begin(number, change.conversion), number)


def _begin(number: int, conversion: Conversion | None) -> str:
    """The end of a script whose change has rows to convert."""
    if conversion is None:
        return ""
    before_first = json.dumps(conversion.before_first).replace("'", "''")
    return f"\n{_MAKE_CONVERSIONS};\nINSERT INTO conversions VALUES ({number}, '{before_first}');"


async def _run_script(connection: aiosqlite.Connection, script: str, number: int) -> None:
    await connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")


def _conversions(changes: Mapping[int, FormatChange]) -> dict[int, Conversion]:
    return {number: change.conversion for number, change in changes.items() if change.conversion is not None}


async def are_rows_to_convert(connection: aiosqlite.Connection) -> bool:
    """Whether a conversion is not over yet."""
    return bool(list(await connection.execute_fetchall(_ANY_CONVERSIONS)))


async def convert_page(
    connection: aiosqlite.Connection, rows: int, changes: Mapping[int, FormatChange] = CHANGES
) -> bool:
    """Converts some rows, within a transaction of the caller's; whether there are more.

    Args:
        rows: how many at the most.
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
    await connection.execute(_END_CONVERSION, (number,))
    if not others:
        await connection.execute(_DROP_CONVERSIONS)
    return bool(others)
