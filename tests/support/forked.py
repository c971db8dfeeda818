"""Runs the program as processes of its own, without the second that importing it takes.

A server imports the program once and forks for every process that is asked for. Such a process is what
`python -m learner_worker` is, with arguments, environment, folder and streams of its own; only the modules
are there already. Tests of what happens until they are run Python itself.
"""

import asyncio
import atexit
import contextlib
import functools
import gc
import io
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NamedTuple

PROGRAM = "learner_worker.__main__"
COMMAND_SECONDS = 120.0  # above a command's own time limits, on a busy machine
_STREAMS = 3  # stdin, stdout and stderr
_DESCRIPTORS = 1024  # more than the server ever has open
_NUMBER = struct.Struct("i")
"""A process id, and later an exit code, as the server tells them."""
Ended = tuple[int, str, str]
"""A command's exit code, and what it printed on stdout and stderr."""


def clean_environment() -> dict[str, str]:
    """This process's environment without settings of a learner."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LEARNER_")}


class ForkedProcess:
    """What tests use of an `asyncio.subprocess.Process`, of a process of the server."""

    def __init__(self, status: socket.socket) -> None:
        self._status = status
        self.pid = self._number()
        self._code: int | None = None
        self._ended = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def returncode(self) -> int | None:
        """The exit code, or the negative number of the signal that ended it; None while it runs."""
        if self._code is None and select.select([self._status], [], [], 0)[0]:
            self._take_code()
        return self._code

    async def wait(self) -> int:
        """Waits for the end; the exit code."""
        if self.returncode is None and self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._status, self._take_code)
        while self._code is None:
            await self._ended.wait()
        return self._code

    def wait_without_a_loop(self, seconds: float) -> int:
        """Waits for the end, and kills what takes longer; the exit code."""
        if self._code is None and not select.select([self._status], [], [], seconds)[0]:
            self.kill()
        if self._code is None:
            self._take_code()
        assert self._code is not None
        return self._code

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended: then its id may be that of another process."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _take_code(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._status)
        self._code = self._number()
        self._status.close()
        self._ended.set()

    def _number(self) -> int:
        (number,) = _NUMBER.unpack(self._status.recv(_NUMBER.size, socket.MSG_WAITALL))
        return int(number)


def start(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    stdout: IO[Any],
    stderr: IO[Any],
    folder: Path | None = None,
    program: str = PROGRAM,
    death: Sequence[object] | None = None,
) -> ForkedProcess:
    """Starts a process; it has nothing on its stdin.

    Args:
        environment: all of it.
        program: the module whose `main` it runs.
        death: where it kills itself: a `tests.crash_points.reshards.Death`.
    """
    job = [program, list(arguments), dict(environment), str(folder or Path.cwd()), death]
    ours, theirs = socket.socketpair()
    with theirs, Path(os.devnull).open("rb") as nothing:
        ours.sendall(json.dumps(job).encode() + b"\n")
        descriptors = [stream.fileno() for stream in (nothing, stdout, stderr, theirs)]
        socket.send_fds(_server().connection, [b"."], descriptors)
    return ForkedProcess(ours)


def run(
    *arguments: str,
    environment: Mapping[str, str],
    folder: Path | None = None,
    seconds: float = COMMAND_SECONDS,
    death: Sequence[object] | None = None,
    stop_at: str | None = None,
) -> Ended:
    """Runs a command in a folder.

    Args:
        environment: in addition to this process's without settings of a learner.
        seconds: it is killed when it takes longer.
        stop_at: what it prints before it is sent SIGTERM; None: it ends by itself.
    """
    whole = {**clean_environment(), **environment}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = start(arguments, environment=whole, folder=folder, stdout=out, stderr=err, death=death)
        if stop_at is not None:
            _terminate_at(stop_at, process, out, seconds)
        return process.wait_without_a_loop(seconds), _text_of(out), _text_of(err)


class Call(NamedTuple):
    """A command of several that run at the same time; as the arguments of `run`."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    stop_at: str | None = None

    def run(self) -> Ended:
        """Runs it alone."""
        return run(*self.arguments, environment=self.environment, folder=self.folder, stop_at=self.stop_at)


def run_all(calls: Sequence[Call]) -> list[Ended]:
    """Runs commands at the same time; returns when all have ended."""
    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(Call.run, calls))


def _terminate_at(words: str, process: ForkedProcess, out: IO[bytes], seconds: float) -> None:
    """Sends SIGTERM once a process has printed some words; returns also when it ends or takes too long."""
    deadline = time.monotonic() + seconds
    while process.returncode is None and time.monotonic() < deadline:
        if words in _text_of(out):
            process.terminate()
            return
        time.sleep(0.01)  # much shorter than a command takes


def _text_of(stream: IO[bytes]) -> str:
    """What a file holds, without moving the place where its writer goes on."""
    return os.pread(stream.fileno(), os.fstat(stream.fileno()).st_size, 0).decode(errors="replace")


@dataclass(frozen=True, slots=True)
class _Server:
    """The server; it ends, with all that it has started, when the connection is closed."""

    process: subprocess.Popen[bytes]
    connection: socket.socket

    def end(self) -> None:
        """Closes the connection, and waits for the end."""
        self.connection.close()
        self.process.wait(COMMAND_SECONDS)


_STARTING = threading.Lock()


def _server() -> _Server:
    with _STARTING:
        return _started_server()


@functools.cache
def _started_server() -> _Server:
    ours, theirs = socket.socketpair()
    with theirs:
        number = theirs.fileno()
        process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve({number})"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=clean_environment(),
            cwd=Path(__file__).parents[2],
            pass_fds=[number],
        )
    server = _Server(process, ours)
    atexit.register(server.end)
    return server


# --- in the server ----------------------------------------------------------------------------------------


class _Request(NamedTuple):
    """Descriptors: three streams, and the connection to who asked."""

    stdin: int
    stdout: int
    stderr: int
    status: int


def serve(number: int) -> None:
    """Forks for every request, and runs in the new process what was asked for."""
    command_line = import_module("learner_worker.cli")
    for place in command_line.COMMANDS.values():
        import_module(f"learner_worker.commands.{place.partition(':')[0]}")
    import_module("learner_worker.worker.replica")
    import_module(PROGRAM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the others; this one ends after them
    gc.freeze()  # the new processes share these objects for longer
    request = _request_of_a_new_process(socket.socket(fileno=number))
    if request is not None:
        _become(request)


def _request_of_a_new_process(connection: socket.socket) -> _Request | None:
    """Returns in every new process with its request; in the server, at its end, with None."""
    ended, note = socket.socketpair()
    note.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(note.fileno(), warn_on_full_buffer=False)
    running: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([connection, ended], [], [])
        if ended in ready:
            ended.recv(_DESCRIPTORS)
            _tell_ends(running)
        if connection in ready:
            sent, descriptors, _, _ = socket.recv_fds(connection, 1, len(_Request._fields))
            if not sent:
                break
            request = _Request(*descriptors)
            pid = os.fork()
            if pid == 0:
                return request
            _tell(request.status, pid)
            running[pid] = request.status
            for descriptor in request[:_STREAMS]:
                os.close(descriptor)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    return None


def _tell_ends(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        descriptor = running.pop(pid)
        _tell(descriptor, os.waitstatus_to_exitcode(status))
        os.close(descriptor)


def _tell(descriptor: int, number: int) -> None:
    """Tells a number to who asked for a process, unless they have gone."""
    with contextlib.suppress(ConnectionError):
        os.write(descriptor, _NUMBER.pack(number))


def _become(request: _Request) -> None:
    """Makes a new process the one that was asked for, and runs it to its end."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with socket.socket(fileno=os.dup(request.status)) as asked, asked.makefile("rb") as lines:
        program, arguments, environment, folder, death = json.loads(lines.readline())
    for place, descriptor in enumerate(request[:_STREAMS]):
        os.dup2(descriptor, place)
    os.closerange(_STREAMS, _DESCRIPTORS)
    # New objects, since those of the server remember whether its own streams could be sought.
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)))
    stderr = io.BufferedWriter(io.FileIO(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(stderr, errors="backslashreplace", line_buffering=True)
    os.environ.clear()
    os.environ.update(environment)
    main = import_module(program).main
    if death is not None:
        import_module("tests.crash_points.reshards").lay(*death)
    os.chdir(folder)
    sys.argv = ["learner-worker", *arguments]
    main()
