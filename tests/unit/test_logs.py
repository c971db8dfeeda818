"""The log: one format for all lines, what a flood leaves out, and when a replica is ready."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import structlog
from structlog.testing import capture_logs

from learner_worker.observability import LimitedLog
from learner_worker.worker.probes import Verdict
from learner_worker.worker.readiness import ReadinessLog

LINES = """
import logging, warnings, structlog
from learner_worker.observability import configure_logging

configure_logging("json")
structlog.get_logger("ours").info("shard.opened", shard=7)
logging.getLogger("asyncio").warning("slow %s", "callback")
warnings.warn("old", DeprecationWarning, stacklevel=1)
try:
    raise ValueError("odd")
except ValueError:
    logging.getLogger("theirs").exception("failed")
    structlog.get_logger("ours").exception("request.failed", secret=1)
logging.getLogger("aiokafka.conn").error("said once by the worker instead")
"""


def written() -> list[dict[str, Any]]:
    """The lines that another process writes, of this program and of libraries."""
    done = subprocess.run(
        [sys.executable, "-Wdefault", "-c", LINES], capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_every_line_is_json_and_begins_with_time_level_and_event() -> None:
    """Ours and the libraries', their warnings and their tracebacks."""
    lines = written()

    assert {tuple(line)[:3] for line in lines} == {("timestamp", "level", "event")}
    assert [(line["level"], line["event"]) for line in lines] == [
        ("info", "shard.opened"),
        ("warning", "library.message"),
        ("warning", "library.message"),
        ("error", "library.message"),
        ("error", "request.failed"),
    ]
    ours, slow, old, theirs, failed = lines
    assert ours["shard"] == 7
    assert (slow["logger"], slow["message"]) == ("asyncio", "slow callback")
    assert old["logger"] == "py.warnings"
    assert (theirs["logger"], theirs["exception"][0]["exc_value"]) == ("theirs", "odd")
    assert failed["exception"][0]["exc_type"] == "ValueError"


class Clock:
    """A clock that a test moves on."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


def test_a_flood_of_warnings_is_cut_and_counted() -> None:
    """Some lines of each window, then how many were left out and why."""
    clock = Clock()
    with capture_logs() as lines:
        log = LimitedLog(structlog.get_logger(), "record.dead_letter", most=2, seconds=60, clock=clock)
        for reason in ("invalid", "invalid", "invalid", "empty"):
            log.warning(reason, offset=1)
        log.tell_left_out()
        assert [line["event"] for line in lines] == ["record.dead_letter"] * 2

        clock.seconds += 60
        log.warning("empty", offset=2)
        log.tell_left_out(at_once=True)

    assert lines[2:] == [
        {
            "event": "record.dead_letter_left_out",
            "lines": 2,
            "reasons": {"invalid": 1, "empty": 1},
            "log_level": "warning",
        },
        {"event": "record.dead_letter", "reason": "empty", "offset": 2, "log_level": "warning"},
    ]


def test_what_a_flood_left_out_is_told_without_another_line() -> None:
    """The flood has ended; its count follows, once, also if the process ends before the window does."""
    clock = Clock()
    with capture_logs() as lines:
        log = LimitedLog(structlog.get_logger(), "record.dead_letter", most=1, seconds=60, clock=clock)
        log.warning("empty")
        log.warning("empty")
        clock.seconds += 60
        log.tell_left_out()
        log.tell_left_out()
        log.warning("empty")
        log.warning("empty")
        log.tell_left_out(at_once=True)

    events = [line["event"] for line in lines]
    assert events == ["record.dead_letter", "record.dead_letter_left_out"] * 2


async def test_the_log_says_when_a_replica_becomes_ready_and_when_it_is_no_longer() -> None:
    """One line for each change, not for each look."""
    stopping = asyncio.Event()

    def looks() -> Iterator[Verdict]:
        yield Verdict(False, {"status": "joining", "shards": []})
        yield Verdict(True, {"status": "ready", "shards": [0, 3]})
        yield Verdict(True, {"status": "ready", "shards": [0, 3]})
        yield Verdict(False, {"status": "restoring", "shards": [0, 3]})
        stopping.set()
        yield Verdict(False, {"status": "restoring", "shards": [0, 3]})

    with capture_logs() as lines:
        await ReadinessLog(looks().__next__).tell(stopping)

    assert [(line["event"], line.get("shards"), line.get("status")) for line in lines] == [
        ("worker.ready", 2, None),
        ("worker.not_ready", None, "restoring"),
    ]
