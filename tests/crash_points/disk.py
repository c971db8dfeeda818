"""How a disk may fail: full by pages, full by file size, or refusing a statement, at a point of the work."""

import resource
import sqlite3
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import aiosqlite

from learner_worker.store import formats
from learner_worker.store.shard_file import ShardFile
from learner_worker.store.statements import Checkpoint, statement
from learner_worker.worker.rebalance import Rebalance
from tests.crash_points.fuse import Fuse, Patch, before, noticing_work, working
from tests.crash_points.points import (
    ALL_THE_TIME,
    BEGIN,
    COMMIT,
    ONLY_AT_THE_END,
    Point,
    before_positions,
    before_statement,
    rebalancing,
    slow_restore,
)

_TINY_BYTES = 8 * 1024
"""Less than SQLite's shared memory needs, more than a worker says until then."""


def _io_error() -> None:
    raise sqlite3.OperationalError("disk I/O error")


def _nothing() -> None:
    """The patches go by `Fuse.burnt`."""


def limit_file_size(size: int) -> None:
    """No file grows beyond that any more: writing fails with EFBIG; Python ignores SIGXFSZ."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _no_more_pages(fuse: Fuse) -> list[Patch]:
    """From a checkpoint with work on no shard's file takes another page."""
    original = aiosqlite.Connection.execute
    is_work = working(BEGIN)

    async def execute(connection: aiosqlite.Connection, sql: str, *parameters: Any) -> Any:
        if is_work(connection, sql):
            fuse.burn()
        if fuse.burnt and sql == BEGIN:
            await original(connection, "PRAGMA max_page_count = 1")  # SQLite takes the present count
        return await original(connection, sql, *parameters)

    return [noticing_work(), (aiosqlite.Connection, "execute", execute)]


def _no_longer_files(fuse: Fuse) -> list[Patch]:
    """From a checkpoint with work on no file grows beyond the longest one."""
    original = ShardFile.write

    async def write(file: ShardFile, checkpoint: Checkpoint) -> None:
        if checkpoint.outcomes and fuse.burn():
            limit_file_size(max(found.stat().st_size for found in file.path.parent.iterdir()))
        await original(file, checkpoint)

    return [(ShardFile, "write", write)]


def _three_pages_for_a_new_file(fuse: Fuse) -> list[Patch]:
    original = formats.bring_up_to_date

    async def bring_up_to_date(connection: aiosqlite.Connection, *changes: Any) -> None:
        fuse.burn()
        if fuse.burnt:
            await connection.execute("PRAGMA max_page_count = 3")
        await original(connection, *changes)

    return [(formats, "bring_up_to_date", bring_up_to_date)]


def _reading(name: str, fuse: Fuse) -> list[Patch]:
    wanted = statement(name)

    def is_wanted(_: aiosqlite.Connection, sql: str, *__: object) -> bool:
        return sql == wanted

    return [before(fuse, aiosqlite.Connection, "execute_fetchall", is_wanted)]


def _writing(name: str, fuse: Fuse) -> list[Patch]:
    wanted = statement(name)

    def is_wanted(_: aiosqlite.Connection, sql: str, __: Iterable[object]) -> bool:
        return sql == wanted

    return [before(fuse, aiosqlite.Connection, "executemany", is_wanted)]


def _opening(fuse: Fuse) -> list[Patch]:
    return [before(fuse, formats, "bring_up_to_date")]


def _handing_back(fuse: Fuse) -> list[Patch]:
    """At the first COMMIT of the checkpoint that a rebalance asks for."""
    original = Rebalance.hand_back
    inner = before(fuse, aiosqlite.Connection, "execute", lambda _, sql, *__: bool(handing) and sql == COMMIT)
    handing: list[bool] = []

    async def hand_back(found: Rebalance) -> None:
        handing.append(True)
        await original(found)

    return [rebalancing(), inner, (Rebalance, "hand_back", hand_back)]


def _restoring(patches: Callable[[Fuse], list[Patch]]) -> Callable[[Fuse], list[Patch]]:
    return lambda fuse: [slow_restore(), *patches(fuse)]


DISK: dict[str, Point] = {
    "no-more-pages": Point("the file takes no more pages", _no_more_pages, effect=_nothing),
    "no-longer-files": Point("no file grows any more", _no_longer_files, effect=_nothing),
    "error-at-begin": Point("a transaction cannot begin", partial(before_statement, BEGIN), effect=_io_error),
    "error-at-positions": Point(
        "the rows are written, the positions cannot be", before_positions, effect=_io_error
    ),
    "error-at-commit": Point(
        "a transaction cannot be committed", partial(before_statement, COMMIT), effect=_io_error
    ),
    "error-at-reading-rows": Point(
        "rows cannot be read", partial(_reading, "load_outcomes"), effect=_io_error
    ),
    "error-at-reading-agents": Point(
        # Each shard may meet all of its agents in its first batch.
        "agents cannot be read",
        partial(_reading, "load_agents"),
        most=2,
        effect=_io_error,
    ),
    "error-on-revoke": Point(
        "the group takes the shards, their checkpoint cannot be written",
        _handing_back,
        most=3,
        effect=_io_error,
    ),
    "error-at-the-end": Point(
        "told to stop, the last checkpoint cannot be written",
        before_positions,
        most=2,
        stopping=True,
        settings=ONLY_AT_THE_END,
        effect=_io_error,
    ),
    "start-full": Point(
        "a new file gets no room for its tables", _three_pages_for_a_new_file, most=2, effect=_nothing
    ),
    "start-tiny-files": Point(
        "no file grows beyond 8 KiB from the start",
        _opening,
        most=2,
        effect=partial(limit_file_size, _TINY_BYTES),
    ),
    "error-at-identity": Point(
        "a new file cannot be told whose it is", partial(_writing, "save_identity"), most=2, effect=_io_error
    ),
    "error-at-rewind": Point(
        "a file cannot note where its sources are read anew from",
        partial(_writing, "delete_auctions"),
        most=2,
        begin="lost",
        effect=_io_error,
    ),
    "error-at-opening": Point(
        "what settle remembered cannot be read", partial(_reading, "load_auctions"), most=2, effect=_io_error
    ),
    "restore-full": Point(
        "the disk is full in the middle of a restore",
        _restoring(_no_more_pages),
        most=2,
        begin="lost",
        settings=ALL_THE_TIME,
        effect=_nothing,
    ),
    "restore-no-longer-files": Point(
        "no file grows any more in the middle of a restore",
        _restoring(_no_longer_files),
        most=2,
        begin="lost",
        settings=ALL_THE_TIME,
        effect=_nothing,
    ),
}
