"""The demo and the living swarm as a person starts them: they show what they do and leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from learner_worker.brokers import BrokerKind
from tests.support.processes import running
from tests.support.workers import http_get

DEMO_SECONDS = 120


def _demo(tmp_path: Path, *options: str) -> subprocess.Popen[str]:
    """A demo in a session of its own, whose temporary files go to the test's folder."""
    return _started(tmp_path, "demo", "--broker", "embedded", *options)


def _started(tmp_path: Path, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "learner_worker", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        start_new_session=True,
    )


def _left_running(session: int, tmp_path: Path) -> list[str]:
    """What still runs of the demo: in its session, or (a daemon) with its folder on the command line."""
    return [
        process.arguments
        for process in running()
        if process.session == session or str(tmp_path) in process.arguments
    ]


def _wait_until_gone(session: int, tmp_path: Path) -> None:
    """Waits until nothing is left: a process that is ending, or notices the demo's end, takes a moment."""
    deadline = time.monotonic() + DEMO_SECONDS
    while _left_running(session, tmp_path) or any(tmp_path.glob("learner-*")):
        assert time.monotonic() < deadline, _left_running(session, tmp_path)
        time.sleep(0.1)


@pytest.fixture(autouse=True)
def _needs_embedded(broker_kinds: frozenset[BrokerKind]) -> None:
    if BrokerKind.EMBEDDED not in broker_kinds:
        pytest.skip("this run of the suite does not use the embedded broker")


def test_the_demo_compares_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Without a terminal: exit 0, plain lines, what asking earns; no process and only the report stays."""
    written = tmp_path / "report.html"
    demo = _demo(tmp_path, "--auctions", "40", "--seeds", "3", "--report", str(written))
    output, _ = demo.communicate(timeout=DEMO_SECONDS)
    assert demo.returncode == 0, output
    assert "\x1b" not in output
    for line in ("auction 40/40", "This one run", "effort spent", "side by side, classic"):
        assert line in output
    assert "Its own count of all 18 agents agrees with the published events." in output
    assert "sats of profit a run beside siblings that bid their base" in output
    assert f"All figures, with charts: {written.as_uri()}" in output
    assert "market demo</h1>" in written.read_text()
    assert "Both workers stopped in order" in output
    _wait_until_gone(demo.pid, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_demo_stopped_in_the_middle_cleans_up(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM or SIGHUP during the auctions: one sentence, 128 + the signal, nothing left."""
    demo = _demo(tmp_path, "--auctions", "1000", "--report", str(tmp_path / "report.html"))
    assert demo.stdout is not None
    for line in demo.stdout:
        if "1000 auctions, seed" in line:
            break
    demo.send_signal(number)
    output, _ = demo.communicate(timeout=DEMO_SECONDS)
    assert demo.returncode == 128 + number, output
    assert "Stopped in the middle" in output
    assert "Traceback" not in output
    _wait_until_gone(demo.pid, tmp_path)


def test_a_killed_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    """kill -9 during the auctions: workers, broker and folder go with it."""
    demo = _demo(tmp_path, "--auctions", "1000")
    assert demo.stdout is not None
    assert any("1000 auctions, seed" in line for line in demo.stdout)
    demo.kill()
    demo.communicate(timeout=DEMO_SECONDS)
    _wait_until_gone(demo.pid, tmp_path)


def _shows(url: str, *wanted: str) -> None:
    """Waits until a page shows all of this."""
    deadline = time.monotonic() + DEMO_SECONDS
    while not all(text in (page := http_get(url)[1]) for text in wanted):
        assert time.monotonic() < deadline, page
        time.sleep(0.1)


def test_dev_shows_a_living_swarm_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """The printed address has agents, what advice came to, and the worker; SIGTERM ends all, with exit 0."""
    dev = _started(tmp_path, "dev")
    assert dev.stdout is not None
    address = next(line.strip() for line in dev.stdout if "http://" in line)
    _shows(address, "18 agents", "echo-classic")
    first = http_get(f"{address}swarm/insights")
    deadline = time.monotonic() + DEMO_SECONDS
    while http_get(f"{address}swarm/insights") == first:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    _shows(f"{address}agent?id=echo-classic", "Of its newest", "Its regret")
    _shows(f"{address}workers", '<span class="word good">ready</span>', "<td>running</td>")
    dev.terminate()
    output, _ = dev.communicate(timeout=DEMO_SECONDS)
    assert (dev.returncode, "Stopped: the swarm" in output) == (0, True), output
    _wait_until_gone(dev.pid, tmp_path)
