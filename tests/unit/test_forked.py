"""The server that forks processes for tests: it outlives who asks, and no signal reaches another process."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

from tests.support import forked
from tests.support.forked import ForkedProcess, clean_environment


def test_a_requester_that_has_gone_does_not_end_the_server() -> None:
    """It cannot be told the process; whoever asks next can, and is told the exit code too."""
    connection, theirs = socket.socketpair()
    with connection, theirs, Path(os.devnull).open("r+b") as nothing:
        server = subprocess.Popen(
            [sys.executable, "-c", f"from {forked.__name__} import serve; serve({theirs.fileno()})"],
            env=clean_environment(),
            cwd=Path(__file__).parents[2],
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        job = [forked.PROGRAM, ["--version"], clean_environment(), str(Path.cwd()), None]
        for waits in (False, True):
            ours, status = socket.socketpair()
            ours.sendall(json.dumps(job).encode() + b"\n")
            if not waits:
                ours.close()
            streams = [nothing.fileno()] * 3
            socket.send_fds(connection, [b"."], [*streams, status.fileno()])
            status.close()
        process = ForkedProcess(ours)
        assert process.wait_without_a_loop(forked.COMMAND_SECONDS) == 0
        connection.close()
        assert server.wait(forked.COMMAND_SECONDS) == 0


def test_a_process_that_has_ended_is_sent_no_signal() -> None:
    """Its exit code has arrived, though nobody has asked for it: its id may be that of another process."""
    ours, theirs = socket.socketpair()
    received: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: received.append(number))
    try:
        with theirs:
            theirs.sendall(struct.pack("ii", os.getpid(), 7))
            process = ForkedProcess(ours)
            process.send_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (process.returncode, received) == (7, [])
