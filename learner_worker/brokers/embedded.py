"""Last preference: noida-db, one binary from PyPI that speaks Kafka's protocol."""

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from learner_worker.brokers.broker import Broker, BrokerKind, Log
from learner_worker.brokers.guardian import GUARDIAN
from learner_worker.brokers.probing import accepts, free_ports, is_true_within, live_nodes
from learner_worker.errors import BrokerError

NOT_INSTALLED = 'noida-db is not installed; run: pip install "learner-worker[embedded]"'
COMMAND_SECONDS = 30.0  # far beyond a command of noida-db, which takes a fraction of a second
ANSWER_SECONDS = 10.0  # far beyond its start, which takes a fraction of a second
# A warning of the loader for binaries built for a newer libc, which run nevertheless.
HARMLESS = "weak version `GLIBC"


def obstacle() -> str:
    """Why noida-db cannot be started here, as half a sentence; empty when it can."""
    return "" if importlib.util.find_spec("noida_db") else NOT_INSTALLED


def description() -> str:
    """noida-db's description for a header line."""
    if obstacle():
        return "noida-db (embedded)"
    return f"noida-db {importlib.metadata.version('noida-db')} (embedded)"


@contextmanager
def running(data_dir: Path, log: Log) -> Iterator[Broker]:
    """Runs noida-db's Kafka on a free port of 127.0.0.1, with its data in the folder; stops it on exit.

    Raises `BrokerError` when it does not start, or when one already runs on the folder.
    """
    [port] = free_ports(1)
    server = f"127.0.0.1:{port}"
    log(f"starting {description()} on {server}")
    _refuse_running(data_dir)
    with GUARDIAN.entrusted("command", json.dumps(_command("down", data_dir))):
        try:
            start(data_dir, port)
            yield Broker(BrokerKind.EMBEDDED, server, description())
        finally:
            stop(data_dir, server)


def _refuse_running(data_dir: Path) -> None:
    if "isn't running" not in _run("status", data_dir).stdout:
        raise BrokerError(
            f"A noida-db already runs on {data_dir}: stop it with noida-db down, or use another folder."
        )


def start(data_dir: Path, port: int) -> None:
    """Start noida-db's Kafka on a port of 127.0.0.1, and wait until it answers.

    Raises:
        BrokerError: it does not start, or does not answer.
    """
    done = _run("up", data_dir, "--only", "kafka", "--kafka-port", str(port), "--host", "127.0.0.1")
    if done.returncode != 0:
        raise BrokerError(f"noida-db did not start, see {data_dir / 'noida.log'}: {_output_of(done)}")
    server = f"127.0.0.1:{port}"
    if not is_true_within(ANSWER_SECONDS, lambda: live_nodes(server) > 0):
        raise BrokerError(f"noida-db started but does not answer on {server}: see {data_dir / 'noida.log'}.")


def stop(data_dir: Path, server: str) -> None:
    """Stop the noida-db of a folder, and wait until its address refuses connections.

    Raises:
        BrokerError: it still runs.
    """
    done = _run("down", data_dir)
    if done.returncode != 0 or not is_true_within(ANSWER_SECONDS, lambda: not accepts(server)):
        raise BrokerError(
            f"noida-db did not stop, end it by hand (noida-db down --data-dir {data_dir}): {_output_of(done)}"
        )


def _run(verb: str, data_dir: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs a noida-db command, always to its end: Ctrl-C during `up` must not leave a server running.

    So it runs in a thread, which is waited for, and in a session that the terminal's Ctrl-C does not reach.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="noida-db") as thread:
        return thread.submit(_finished, verb, data_dir, options).result()


def _command(verb: str, data_dir: Path) -> list[str]:
    return [sys.executable, "-m", "noida_db.cli", verb, "--data-dir", str(data_dir)]


def _finished(verb: str, data_dir: Path, options: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [*_command(verb, data_dir), *options],
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise BrokerError(
            f"noida-db {verb} hung for {COMMAND_SECONDS:.0f} s on {data_dir}: end it by hand."
        ) from error


def _output_of(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if HARMLESS not in line]
    return " ".join(filter(None, lines))
