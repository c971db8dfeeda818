"""Runs commands of the program as processes of their own, without the second that importing it takes.

Run as a module, it imports the program once and forks for every command that is asked for on stdin.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.workers import clean_environment

COMMAND_SECONDS = 60.0  # far above a command's own time limits, on a busy machine


class Program:
    """Runs commands one after the other, each in its own folder."""

    def __enter__(self) -> Self:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forked"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=clean_environment(),
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(COMMAND_SECONDS)
        self._server.stdout.close()

    def run(
        self,
        *arguments: str,
        environment: Mapping[str, str],
        folder: Path,
        seconds: float = COMMAND_SECONDS,
        death: Sequence[object] | None = None,
    ) -> tuple[int, str, str]:
        """Runs a command in a folder; its exit code and what it printed.

        Args:
            seconds: it is killed when it takes longer.
            death: where it kills itself: a `tests.crash_points.reshards.Death`.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        asked = [arguments, dict(environment), str(folder), seconds, death]
        self._server.stdin.write(json.dumps(asked) + "\n")
        self._server.stdin.flush()
        code, out, err = json.loads(self._server.stdout.readline())
        return code, out, err


def _serve() -> None:
    command_line = import_module("learner_worker.cli")
    for place in command_line.COMMANDS.values():
        import_module(f"learner_worker.commands.{place.partition(':')[0]}")
    import_module("learner_worker.worker.replica")
    for line in sys.stdin:
        arguments, environment, folder, seconds, death = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = os.fork()
            if child == 0:
                os.chdir(folder)
                os.environ.update(environment)
                for stream, number in ((out, 1), (err, 2)):
                    os.dup2(stream.fileno(), number)
                if death is not None:
                    import_module("tests.crash_points.reshards").lay(*death)
                sys.argv = ["learner-worker", *arguments]
                command_line.main()  # ends this process as it would end any other
            code = _exit_code(child, seconds)
            printed = [_text_of(stream) for stream in (out, err)]
        sys.stdout.write(json.dumps([code, *printed]) + "\n")
        sys.stdout.flush()


def _exit_code(child: int, seconds: float) -> int:
    """The exit code of a process; one that takes too long is killed."""
    deadline = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, 9)
        time.sleep(0.01)


def _text_of(stream: Any) -> str:
    stream.seek(0)
    return str(stream.read().decode(errors="replace"))


if __name__ == "__main__":
    _serve()
