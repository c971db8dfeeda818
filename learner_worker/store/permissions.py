"""Keeps the state private: agents' bids and descriptions are in it. Folders get 0700, files 0600."""

import contextlib
import os
from pathlib import Path
from typing import Final

FOLDER_MODE: Final = 0o700  # the owner alone
FILE_MODE: Final = 0o600  # as above; nothing is executed


def private_folder(path: Path) -> None:
    """Creates a folder, with its parents, or withdraws others' access to an existing one.

    Raises:
        OSError: it cannot be created.
    """
    path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    _withdraw(path, FOLDER_MODE)


def private_file(path: Path) -> None:
    """Creates an empty file, or withdraws others' access to an existing one.

    SQLite gives the log and the index of a file the permissions of the file itself.

    Raises:
        OSError: it cannot be created.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, FILE_MODE))
    _withdraw(path, FILE_MODE)


def _withdraw(path: Path, mode: int) -> None:
    """Allows at most `mode`. A mounted volume may belong to somebody else, who decides then."""
    found = path.stat().st_mode & 0o777
    if found & ~mode:
        with contextlib.suppress(PermissionError):
            path.chmod(found & mode)
