"""What runs on this machine: from /proc where there is one (slim systems have no `ps`), else from `ps`."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_SESSION_FIELD = 3  # after the state: parent, group, session


class Running(NamedTuple):
    """A process that has not ended: its id, its session and its command line."""

    pid: int
    session: int
    arguments: str


def running() -> list[Running]:
    """Every process but those that have ended and wait for their parent."""
    return list(_from_proc() if (_PROC / "self" / "stat").exists() else _from_ps())


def _from_proc() -> Iterator[Running]:
    for folder in _PROC.glob("[0-9]*"):
        try:
            state, *numbers = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            arguments = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended meanwhile
        if state != "Z":
            yield Running(int(folder.name), int(numbers[_SESSION_FIELD - 1]), arguments.strip())


def _from_ps() -> Iterator[Running]:
    command = ["ps", "-A", "-ww", "-o", "pid=,sess=,stat=,args="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    for line in listed.stdout.splitlines():
        pid, session, state, *arguments = line.split(maxsplit=3)
        if not state.startswith("Z"):
            yield Running(int(pid), int(session) if session.isdecimal() else 0, " ".join(arguments))
