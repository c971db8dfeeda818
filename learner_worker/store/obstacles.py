"""Says why a file cannot be used, and what to do: the errno decides, not the operation that met it."""

import errno
import os
import sqlite3
from pathlib import Path
from typing import Final

from learner_worker.store.needs import DESCRIPTORS_OF_SHARD, allowed_descriptors
from learner_worker.store.permissions import FILE_MODE

_OTHER_FOLDER = "set --state-dir to a folder on a local disk"
_REMEDIES: Final = {
    errno.ENOSPC: "free disk space",
    errno.ENOENT: "its folder is not there, set --state-dir to one that is",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or free disk space",
    errno.EROFS: "mount its file system so that it can be written, or set --state-dir to another folder",
    errno.EIO: "check the disk",
    errno.ENOLCK: f"its file system cannot lock files, {_OTHER_FOLDER}",
    errno.EOPNOTSUPP: f"its file system cannot lock files, {_OTHER_FOLDER}",
    errno.ENOTDIR: "a file is in its place, set --state-dir to a folder",
    errno.EEXIST: "a file is in its place, set --state-dir to a folder",
    errno.ENAMETOOLONG: "set --state-dir to a shorter path",
}
_PRIMARY: Final = 0xFF  # the bits of SQLite's primary result code; the others hold the extended one


def obstacle(path: Path, error: OSError | sqlite3.Error) -> str:
    """The reason and the remedy, as the end of a sentence.

    SQLite does not report the operating system's reason: opening as much as a shard does once more shows it.
    """
    number = error.errno if isinstance(error, OSError) else _number_behind(path, error)
    reason = os.strerror(number) if number else str(error)
    return f"{reason}: {_remedy(number)}"


def _remedy(number: int | None) -> str:
    if number in {errno.EMFILE, errno.ENFILE}:
        allowed = allowed_descriptors()
        return f"raise the limit of open files, now {allowed} (ulimit -n, or LimitNOFILE of the service)"
    if number in {errno.EACCES, errno.EPERM}:
        return f"allow {user_name()} to read and write it, or set --state-dir to a folder of that user"
    return _REMEDIES.get(number or 0, "check the disk and this user's permissions")


def user_name() -> str:
    """This process's user, by the number that decides."""
    return f"user {os.geteuid()}" if hasattr(os, "geteuid") else "this user"


def _number_behind(path: Path, error: sqlite3.Error) -> int | None:
    code = int(getattr(error, "sqlite_errorcode", 0)) & _PRIMARY
    if code == sqlite3.SQLITE_FULL:
        return errno.ENOSPC
    if code not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}:
        return None
    opened: list[int] = []
    try:
        opened.append(os.open(path, os.O_RDWR | os.O_CREAT, FILE_MODE))
        opened += [os.open(path.parent, os.O_RDONLY) for _ in range(DESCRIPTORS_OF_SHARD - 1)]
    except OSError as found:
        return found.errno
    finally:
        for handle in opened:
            os.close(handle)
    return None if os.access(path.parent, os.W_OK) else errno.EACCES
