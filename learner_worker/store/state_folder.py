"""The state folder: one worker's at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from learner_worker.errors import ConfigurationError, StateError


@contextmanager
def locked_state_folder(path: Path) -> Iterator[Path]:
    """Makes the folder if need be and holds its lock; the lock goes with the process.

    Raises:
        ConfigurationError: it cannot be written, or another worker uses it.
        StateError: its disk is full.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        handle = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write to the state folder {path}: {error.strerror}; "
            "give --state-dir a folder that this user may write to"
        ) from error
    try:
        _lock(handle, path)
        _name_owner(handle, path)
        yield path
    finally:
        os.close(handle)


def _lock(handle: int, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
        raise ConfigurationError(
            f"the state folder {path} is in use by another worker (process {owner}): "
            "stop it, or give this one its own --state-dir"
        ) from error


def _name_owner(handle: int, path: Path) -> None:
    try:
        os.truncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
    except OSError as error:
        raise StateError(
            f"cannot write {path / 'lock'}: {error.strerror}; free disk space or mend the disk, then restart"
        ) from error
