"""Ends what this program has started, in case it is killed before it can.

A process of its own reads a pipe that only this program writes to, so the pipe ends with the program. It runs
this file by itself, hence the imports from the standard library only.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, Literal

COMMAND_SECONDS: Final = 30.0  # far beyond what stops a broker, which takes a fraction of a second
Kind = Literal["process", "command", "folder"]
"""A process to kill, by its id; a command to run, as JSON; a folder to delete. The newest goes first."""


class Guardian:
    """Starts the process with the first thing that is entrusted to it, and ends it after the last."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._entrusted: set[tuple[Kind, str]] = set()

    @contextmanager
    def entrusted(self, kind: Kind, name: str) -> Iterator[None]:
        """Until exit, a killed program's process, command or folder is left to the guardian."""
        self.add(kind, name)
        try:
            yield
        finally:
            self.remove(kind, name)

    def add(self, kind: Kind, name: str) -> None:
        """Entrusts something to the guardian."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._entrusted.add((kind, name))
        self._tell("add", kind, name)

    def remove(self, kind: Kind, name: str) -> None:
        """Takes it back: the program has ended it itself."""
        self._entrusted.discard((kind, name))
        self._tell("remove", kind, name)
        if not self._entrusted:
            self._dismiss()

    def _tell(self, verb: str, kind: Kind, name: str) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):  # somebody has killed it: there is no guardian any more
                print(json.dumps((verb, kind, name)), file=self._process.stdin, flush=True)

    def _dismiss(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(OSError):
                process.communicate()


GUARDIAN: Final = Guardian()
"""The guardian of this program."""


def guard(lines: Iterable[str]) -> None:
    """Reads what is entrusted until the program ends, and then ends what is left, the newest first."""
    left: dict[tuple[str, str], None] = {}
    for line in lines:
        verb, kind, name = json.loads(line)
        left.pop((kind, name), None)
        if verb == "add":
            left[kind, name] = None
    for kind, name in reversed(left):
        match kind:
            case "process":
                with contextlib.suppress(OSError):
                    os.kill(int(name), signal.SIGKILL)
            case "command":
                _run(json.loads(name))
            case _:
                shutil.rmtree(name, ignore_errors=True)


def _run(command: list[str]) -> None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(command, capture_output=True, timeout=COMMAND_SECONDS, check=False)


if __name__ == "__main__":
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    guard(sys.stdin)
