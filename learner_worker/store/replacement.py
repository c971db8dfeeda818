"""A shard's file takes the place of another in one step; the old one is kept under another ending."""

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

from learner_worker.errors import StateError

_LOG, _INDEX = "-wal", "-shm"


def remove(path: Path) -> None:
    """Removes a SQLite file with all that belongs to it, if it is there."""
    for each in (path, _beside(path, _LOG), _beside(path, _INDEX)):
        each.unlink(missing_ok=True)


def replace(path: Path, new: Path) -> Path | None:
    """Puts a closed file in a shard's place; where the old one is kept now, or None if there was none.

    At every moment the place holds a whole file, the old one or the new one. An older kept file goes.

    Raises:
        StateError: the folder does not take it; the old file is still in its place.
    """
    kept = path.with_suffix(".replaced")
    try:
        remove(kept)
        if not path.exists():
            remove(path)
            new.replace(path)
            return None
        _take_log_in(path)
        _keep(path, kept)
        _move_log(path, kept)  # only a damaged file still has one: its log must not meet the new file
        new.replace(path)
    except OSError as error:
        raise StateError(f"cannot replace {path}: {error.strerror}") from error
    return kept


def _take_log_in(path: Path) -> None:
    """Lets SQLite move what a killed worker left in the log into the file; a damaged file stays as it is."""
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection,
    ):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _keep(path: Path, kept: Path) -> None:
    try:
        os.link(path, kept)
    except OSError:  # not every file system has links
        shutil.copyfile(path, kept)


def _move_log(path: Path, kept: Path) -> None:
    _beside(path, _INDEX).unlink(missing_ok=True)
    if _beside(path, _LOG).exists():
        _beside(path, _LOG).replace(_beside(kept, _LOG))


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
