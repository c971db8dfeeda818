"""The standard streams: whatever becomes of their readers, the program works on and counts what is lost."""

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from learner_worker.standard_streams import BackgroundOutput, TolerantOutput, text_on

ROOT = Path(__file__).parents[2]
NO_SPACE = "learner-worker: cannot write (No space left on device"
PIPE_BYTES = 2**16
LINE = b"x" * 1_000 + b"\n"


def becomes(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits until a thread has made a condition true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.001)


def learner_worker(command: str, **options: object) -> subprocess.CompletedProcess[str]:
    """What a shell makes of a command line; `learner-worker` is this interpreter's."""
    line = command.replace("learner-worker", f"{sys.executable} -m learner_worker")
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], text=True, capture_output=True, timeout=280, check=False
    )


def test_output_that_nobody_reads_is_lost_and_counted() -> None:
    """A pipe without a reader raises no error, and every line that it did not take is counted."""
    reading, writing = os.pipe()
    os.close(reading)
    output = TolerantOutput(writing)
    text = text_on(output)
    for number in range(3):
        print("line", number, file=text, flush=True)
    assert output.lost == 3
    output.raise_if_full()
    os.close(writing)


def test_a_full_disk_loses_lines_and_is_said_at_the_end() -> None:
    """Writing to a full disk raises nothing until the work is done; then it is an error."""
    with Path("/dev/full").open("wb", buffering=0) as full:
        output = TolerantOutput(full.fileno())
        print("line", file=text_on(output), flush=True)
        assert output.lost == 1
        with pytest.raises(OSError, match="No space left"):
            output.raise_if_full()


def test_a_reader_that_stands_still_blocks_nobody_and_goes_on() -> None:
    """Lines beyond what the pipe and the queue hold are lost and counted; read again, new lines arrive."""
    reading, writing = os.pipe()
    lost: list[int] = []
    output = BackgroundOutput(writing, lambda: lost.append(1))
    written = PIPE_BYTES // len(LINE) + 6_000
    for _ in range(written):
        output.write(LINE)
    assert 1_000 < len(lost) == output.lost < written
    received = bytearray()

    def read() -> None:
        while piece := os.read(reading, PIPE_BYTES):
            received.extend(piece)

    threading.Thread(target=read, daemon=True).start()
    output.drain(30)
    output.write(b"afterwards\n")
    becomes(lambda: received.endswith(b"afterwards\n"))
    assert len(received) == (written - len(lost)) * len(LINE) + len(b"afterwards\n")


def test_lines_arrive_again_when_the_reader_of_a_named_pipe_is_back(tmp_path: Path) -> None:
    """The lines between two readers are lost and counted, those for the second one arrive."""
    fifo = tmp_path / "log"
    os.mkfifo(fifo)
    first = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    lost: list[int] = []
    output = BackgroundOutput(os.open(fifo, os.O_WRONLY), lambda: lost.append(1))
    output.write(b"first\n")
    output.drain(30)
    assert os.read(first, 100) == b"first\n"
    os.close(first)
    output.write(b"nobody\n")
    becomes(lambda: len(lost) == 1)
    second = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    output.write(b"second\n")
    output.drain(30)
    assert os.read(second, 100) == b"second\n"
    os.close(second)


def test_a_pipe_that_others_made_non_blocking_takes_every_line() -> None:
    """A full pipe in non-blocking mode is waited for instead of losing what it does not take at once."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    output = TolerantOutput(writing)
    content = b"y" * (3 * PIPE_BYTES)
    thread = threading.Thread(target=output.write, args=(content,))
    thread.start()
    received = b""
    while len(received) < len(content):
        received += os.read(reading, PIPE_BYTES)
    thread.join(30)
    assert (received, output.lost) == (content, 0)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_never_another_files_number(closed: str) -> None:
    """With standard streams closed at the start, no file that is opened later has their numbers."""
    code = (
        "import os, sys, tempfile; from learner_worker import standard_streams as s; s.open_missing(); "
        "print('out'); print('err', file=sys.stderr); "
        "sys.exit(0 if tempfile.TemporaryFile().fileno() > 2 and sys.stdin.read() == '' else 1)"
    )
    found = subprocess.run(
        ["bash", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=280,
        check=False,
    )
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("learner-worker run --bootstrap-servers localhost:1 --startup-timeout-seconds 0.1 2>&1 | true", 1),
        ("learner-worker run --http-port x 2>/dev/full", 2),
    ],
)
def test_a_lost_sentence_leaves_the_exit_code(command: str, code: int) -> None:
    """Whether anybody hears why a command ended, its exit code says what it would say otherwise."""
    ended = learner_worker(command)
    assert (ended.returncode, "Traceback" in ended.stderr) == (code, False)


@pytest.mark.parametrize("command", [["acls", "print", "--role", "worker"], ["schemas", "release", "."]])
@pytest.mark.parametrize(("full", "code"), [(False, 0), (True, 1)])
def test_a_command_whose_stdout_takes_nothing_works_on(
    command: Sequence[str], full: bool, code: int, tmp_path: Path
) -> None:
    """Nobody reads: it ends as if somebody did. No space left: everything is done, then one sentence."""
    with open_output(full=full) as output:
        ended = subprocess.run(
            [sys.executable, "-m", "learner_worker", *command],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            timeout=280,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert ended.returncode == code
    assert [line.partition(")")[0] for line in ended.stderr.splitlines()] == [NO_SPACE] * code
    assert any(tmp_path.iterdir()) == (command[0] == "schemas")


def open_output(*, full: bool) -> io.FileIO:
    """A stream that takes nothing: a disk that is full, or a pipe that nobody reads."""
    if full:
        return io.FileIO("/dev/full", "w")
    reading, writing = os.pipe()
    os.close(reading)
    return io.FileIO(writing, "w")


def test_text_is_passed_on_line_by_line() -> None:
    """Each line is one write, however long it is, and what the encoding lacks is escaped."""
    writes: list[bytes] = []

    class Output(TolerantOutput):
        def _write_or_lose(self, content: bytes) -> None:
            writes.append(content)

    latin = io.TextIOWrapper(io.BytesIO(), "latin-1")
    print("\u20ac", "y" * 30_000, file=text_on(Output(1), like=latin), flush=True)
    assert writes == [b"\\u20ac " + b"y" * 30_000 + b"\n"]
