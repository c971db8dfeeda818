"""Replaces a shard's file by another one atomically; keeps the old one under another suffix."""

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

from learner_worker.errors import StateError
from learner_worker.store.obstacles import obstacle

_LOG, _INDEX = "-wal", "-shm"


def remove(path: Path) -> None:
    """Removes a SQLite file, its log and its index, if they exist."""
    for each in (path, _beside(path, _LOG), _beside(path, _INDEX)):
        each.unlink(missing_ok=True)


def move(path: Path, aside: Path) -> None:
    """Moves a SQLite file with its log; a file that was there is removed."""
    remove(aside)
    _take_log_in(path)
    path.replace(aside)
    _move_log(path, aside)


def replace(path: Path, new: Path) -> Path | None:
    """Replaces a shard's file by a new, closed one; returns the old one's path, or None without an old one.

    At every moment the path holds a complete file, the old one or the new one. An older kept one is removed.

    Raises:
        StateError: the folder cannot be written; the old file is still in its place.
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
        _move_log(path, kept)  # a damaged file keeps its log, which must not be applied to the new file
        new.replace(path)
    except OSError as error:
        raise StateError(f"cannot replace {path} ({obstacle(path, error)})") from error
    return kept


def _take_log_in(path: Path) -> None:
    """Checkpoints a log that a killed worker left behind; leaves a damaged file unchanged."""
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection,
    ):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _keep(path: Path, kept: Path) -> None:
    try:
        os.link(path, kept)
    except OSError:  # not every file system supports hard links
        shutil.copy(path, kept)  # with its permissions


def _move_log(path: Path, kept: Path) -> None:
    _beside(path, _INDEX).unlink(missing_ok=True)
    if _beside(path, _LOG).exists():
        _beside(path, _LOG).replace(_beside(kept, _LOG))


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
