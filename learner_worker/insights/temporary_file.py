"""Temporary SQLite files: what insights have read, ordered as it is asked for; gone with the process."""

import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import aiosqlite

_SETTINGS = (
    "PRAGMA journal_mode = OFF",  # after any failure the file is of no use, and goes with the process
    "PRAGMA synchronous = OFF",
    "PRAGMA locking_mode = EXCLUSIVE",
)


@asynccontextmanager
async def temporary_database(
    statements: Iterable[str], *, cache_kib: int
) -> AsyncIterator[aiosqlite.Connection]:
    """Opens an empty file, in a folder of its own that is deleted on exit.

    Args:
        statements: make its tables.
        cache_kib: how much of it may be in memory.
    """
    with tempfile.TemporaryDirectory(prefix="learner-insights-") as folder:
        async with aiosqlite.connect(Path(folder) / "records.sqlite3") as database:
            for statement in (*_SETTINGS, f"PRAGMA cache_size = -{cache_kib:d}", *statements):
                await database.execute(statement)
            await database.commit()
            yield database
