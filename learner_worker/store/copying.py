"""Copies the rows of a shard's file as of one moment, while it is in use, and describes the copy.

Like a standby's file, a copy holds no auctions and no positions of the sources. It is used much later, when
others have read further, and rule 8 (docs/protocol.md) would drop them then.
"""

import asyncio
import hashlib
import shutil
import sqlite3
from collections.abc import Collection, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import aiosqlite
import msgspec

from learner_worker.contract.fields import AgentId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.errors import StateError
from learner_worker.store.obstacles import obstacle
from learner_worker.store.permissions import private_file
from learner_worker.store.replacement import remove
from learner_worker.store.snapshot import snapshot_of
from learner_worker.store.statements import statement

_SPARE: Final = 2  # times the file's size that must be free: checkpoints go on while the copy is written


class FileCopy(NamedTuple):
    """A closed copy of a shard's file, and what is in it; of who is forgotten there is a digest."""

    path: Path
    format: int
    identity: Mapping[str, str]
    positions: Mapping[str, int]
    forgotten: str
    size: int
    sha256: str


async def copy_file(source: Path, target: Path, topics: Collection[TopicName]) -> FileCopy:
    """Copies a file that others may be writing; an earlier target is replaced.

    VACUUM INTO reads every row in one read transaction, so a damaged file is not copied. Deleted content is
    left out.

    Args:
        topics: the topics whose positions the copy keeps.

    Raises:
        StateError: the file cannot be read, or there is no space for the copy.
    """
    try:
        _require_space(source)
        remove(target)
        private_file(target)
        await _vacuum(source, target)
        return await asyncio.to_thread(_described, target, topics)
    except (sqlite3.Error, OSError) as error:
        remove(target)
        raise StateError(f"cannot copy {source} ({obstacle(source, error)})") from error
    except BaseException:
        remove(target)
        raise


async def _vacuum(source: Path, target: Path) -> None:
    async with aiosqlite.connect(_read_only(source), uri=True, isolation_level=None) as connection:
        try:
            await connection.execute("VACUUM INTO ?", (str(target),))
        except asyncio.CancelledError:
            await connection.interrupt()
            raise


def _read_only(path: Path) -> str:
    return f"{path.absolute().as_uri()}?mode=ro"


def keep_rows_only(connection: sqlite3.Connection, topics: Collection[TopicName]) -> None:
    """Deletes what a copy must not have: auctions, and the positions of all other topics."""
    filed = [str(topic) for topic, _ in connection.execute(statement("load_positions"))]
    connection.execute(statement("delete_auctions"))
    connection.executemany(statement("delete_position"), [(topic,) for topic in filed if topic not in topics])


def _require_space(source: Path) -> None:
    free, needed = shutil.disk_usage(source.parent).free, _SPARE * source.stat().st_size
    if free < needed:
        raise StateError(f"a copy of {source} needs {needed:,} bytes, and its disk has {free:,} free")


def _described(path: Path, topics: Collection[TopicName]) -> FileCopy:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA secure_delete = ON")  # see `database.py`
        keep_rows_only(connection, topics)
    return description_of(path)


def description_of(path: Path) -> FileCopy:
    """What is in a closed copy.

    Raises:
        StateError: it cannot be read, or is damaged.
    """
    with snapshot_of(path) as snapshot, path.open("rb") as file:
        return FileCopy(
            path,
            snapshot.format,
            snapshot.identity(),
            snapshot.positions(),
            digest_of(snapshot.forgotten()),
            path.stat().st_size,
            hashlib.file_digest(file, "sha256").hexdigest(),
        )


def digest_of(forgotten: Mapping[AgentId, Micros]) -> str:
    """Tells apart who is forgotten, and until when."""
    return hashlib.sha256(msgspec.json.encode(sorted(forgotten.items()))).hexdigest()
