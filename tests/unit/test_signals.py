"""Signals at every moment: while the program is imported, when it starts to stop, and when it cannot stop."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from shutil import which
from socket import create_connection

import pytest

from learner_worker.kafka import clients
from learner_worker.worker.probes import Verdict, serving
from tests.support.processes import running

AT_IMPORT = """
import os, runpy, signal, sys
class Signalling:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Signalling())
sys.argv = ["learner-worker", *{arguments}]
runpy.run_module("learner_worker", run_name="__main__", alter_sys=False)
"""
AGAIN = """
import os, signal
from learner_worker import signals
assert os.getpid() == 1
signals.end_on_next_signal([signal.SIGINT])
os.kill(1, signal.SIGINT)
os._exit(5)
"""
BY_FORCE = """
import threading, time
from learner_worker.worker import stopping
threading.Thread(target=time.sleep, args=(250,)).start()
stopping.end_by_force_after(0.1)
"""
GUARDED = """
import json, os, signal, subprocess, sys
from learner_worker.brokers.guardian import GUARDIAN
folder, copy = sys.argv[1:]
sleep, quiet = [sys.executable, "-c", "import time; time.sleep(250)"], subprocess.DEVNULL
child = subprocess.Popen(sleep, stdout=quiet, stderr=quiet)
released = subprocess.Popen(sleep, stdout=quiet, stderr=quiet)
GUARDIAN.add("folder", folder)
GUARDIAN.add("command", json.dumps(["cp", folder + "/file", copy]))
GUARDIAN.add("process", str(child.pid))
GUARDIAN.add("process", str(released.pid))
GUARDIAN.remove("process", str(released.pid))
print(child.pid, released.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def program(code: str, *arguments: str) -> "subprocess.Popen[str]":
    """A Python program of the test's own."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_a_signal_while_the_program_is_imported_ends_it() -> None:
    """`run` has nothing to make durable yet: exit code 0. Other commands end by the signal."""
    expected = {("run", number): 0 for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    expected |= {("doctor", number): -number for number in (signal.SIGTERM, signal.SIGINT)}
    started = {case: program(AT_IMPORT.format(number=int(case[1]), arguments=[case[0]])) for case in expected}
    ended = {case: process.communicate() for case, process in started.items()}
    assert {case: process.returncode for case, process in started.items()} == expected
    assert [errors for _, errors in ended.values() if "Traceback" in errors] == []


@pytest.mark.skipif(which("unshare") is None, reason="only Linux has namespaces of processes")
def test_process_1_of_a_container_hears_its_first_and_its_second_signal() -> None:
    """Linux drops a signal for process 1 that has no handler of its own: while importing, and at a stop."""
    commands = [AT_IMPORT.format(number=int(signal.SIGTERM), arguments=[name]) for name in ("run", "doctor")]
    ended = [as_process_1(code) for code in (*commands, AGAIN)]
    if any("unshare" in errors for _, errors in ended):
        pytest.skip("this machine lets its user make no process 1")
    assert [code for code, _ in ended] == [0, 128 + signal.SIGTERM, 128 + signal.SIGINT], ended


def as_process_1(code: str) -> tuple[int, str]:
    """Runs a program as the first process of a namespace, as a container's is; exit code and stderr."""
    ended = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--pid", "--fork", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return ended.returncode, ended.stderr


def test_a_signal_that_the_parent_switched_off_stays_off() -> None:
    """`nohup`: SIGHUP is ignored before and after the program has installed its handlers."""
    code = (
        "import os, signal, sys; from learner_worker import signals; signals.end_on_signals(); "
        "os.kill(os.getpid(), signal.SIGHUP); sys.exit(7 if signal.SIGHUP in signals.wanted_signals() else 5)"
    )
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = program(code)
    finally:
        signal.signal(signal.SIGHUP, previous)
    process.communicate()
    assert process.returncode == 5


def test_a_stop_that_a_thread_holds_up_ends_by_force() -> None:
    """A thread of a file on a disk that hangs does not keep the process: exit code 1 after the limit."""
    process = program(BY_FORCE)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 1, errors


def test_what_a_killed_program_has_started_ends_with_it(tmp_path: Path) -> None:
    """kill -9: its child is stopped, a command run while the folder is there, then the folder deleted."""
    folder, copy = tmp_path / "folder", tmp_path / "copy"
    folder.mkdir()
    (folder / "file").write_text("content")
    process = program(GUARDED, str(folder), str(copy))
    output, errors = process.communicate()
    child, released = map(int, output.split())
    try:
        assert process.returncode == -signal.SIGKILL, errors
        deadline = time.monotonic() + 60
        while folder.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert copy.read_text() == "content"
        processes = {process.pid: process.arguments for process in running()}
        assert child not in processes
        assert released in processes
    finally:
        os.kill(released, signal.SIGKILL)


async def test_a_client_that_does_not_read_its_answer_does_not_hold_up_the_end() -> None:
    """A connection whose answer is not read is closed a second later, not a minute."""
    big = Verdict(True, {"text": "x" * 50_000_000})
    async with serving(
        host="127.0.0.1", port=0, healthy=lambda: big, ready=lambda: big, metrics=lambda: ""
    ) as port:
        connection = create_connection(("127.0.0.1", port))
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await asyncio.to_thread(connection.recv, 1) == b"H"
        began = time.monotonic()
    with closing(connection):
        assert time.monotonic() - began < 30


async def test_clients_that_hang_are_stopped_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four clients that do not stop take one client's limit, not the sum of four."""
    begun: list[float] = []

    class Hanging:
        async def start(self) -> None:
            pass

        async def stop(self) -> None:
            begun.append(time.monotonic())
            await asyncio.Event().wait()

    monkeypatch.setattr(clients, "STOP_SECONDS", 0.2)
    async with clients.all_running([Hanging() for _ in range(4)], 1.0):
        pass
    assert len(begun) == 4
    assert max(begun) - min(begun) < 0.2
