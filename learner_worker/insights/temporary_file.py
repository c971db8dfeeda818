"""Temporary SQLite files of insights, which hold what was read in the order of queries."""

import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import aiosqlite

_SETTINGS = (
    "PRAGMA journal_mode = OFF",  # the file is not kept after a failure
    "PRAGMA synchronous = OFF",
    "PRAGMA locking_mode = EXCLUSIVE",
)


@asynccontextmanager
async def temporary_database(
    statements: Iterable[str], *, cache_kib: int
) -> AsyncIterator[aiosqlite.Connection]:
    """Opens an empty file, in a folder of its own that is deleted on exit.

    Args:
        statements: SQL that creates its tables.
        cache_kib: size of SQLite's page cache.
    """
    with tempfile.TemporaryDirectory(prefix="learner-insights-") as folder:
        async with aiosqlite.connect(Path(folder) / "records.sqlite3") as database:
            for statement in (*_SETTINGS, f"PRAGMA cache_size = -{cache_kib:d}", *statements):
                await database.execute(statement)
            await database.commit()
            yield database
